"""Compiled programs that were kept are read again, and compute the same bits."""

import json
import os
import subprocess
import sys

import pytest

from lconv_jax.host import cache
from tests.test_resume import ROOT, _assert_same_run


def test_the_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/somewhere")
    assert cache.default_directory() == "/somewhere"
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache.default_directory().startswith("/caches/lconv_jax/jax-")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache.default_directory().startswith("/home/someone/.cache/lconv_jax/jax-")


def _run(workdir, folder):
    command = [sys.executable, "-m", "lconv_jax.main", "--config=tests/tiny_config.py"]
    command += [f"--workdir={workdir}", f"--compilation_cache={folder}"]
    command += ["--config.train.epochs=4"]
    environ = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    run = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads((workdir / "summary.json").read_text())["time/compile_seconds"], run.stderr


def _written(folder):
    """When each file of the folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.slow
def test_a_second_run_compiles_little_and_ends_with_the_same_bits(tmp_path):
    folder = tmp_path / "cache"
    without, _ = _run(tmp_path / "without", "")
    assert not folder.exists()
    first, _ = _run(tmp_path / "first", folder)
    kept = _written(folder)
    (steps,) = (path for path in kept if "train_steps" in path.name)
    second, errors = _run(tmp_path / "second", folder)
    assert errors == ""
    # All that was kept was read, none written again. A program that takes about as long to compile
    # as what is kept must take may have been kept by the second run alone.
    now = _written(folder)
    assert now.items() >= kept.items()
    assert [path for path in now if "train_steps" in path.name] == [steps]
    # A third or less: measured, a tenth to a twentieth.
    assert second < min(without, first) / 3
    _assert_same_run(tmp_path / "first", tmp_path / "without")
    _assert_same_run(tmp_path / "second", tmp_path / "without")

    # What does not read back is compiled again.
    steps.write_bytes(steps.read_bytes()[: steps.stat().st_size // 2])
    _, errors = _run(tmp_path / "third", folder)
    assert "Error reading persistent compilation cache entry for 'jit_train_steps'" in errors
    _assert_same_run(tmp_path / "third", tmp_path / "without")
