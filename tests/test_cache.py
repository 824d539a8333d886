"""Compiled programs that were kept are read again, and compute the same bits."""

import json
import os

import jax
import pytest

from lconv_jax.host import cache
from tests import processes
from tests.helpers import beside_life
from tests.test_resume import _assert_same_run


def test_what_takes_half_a_second_is_kept_unless_the_environment_says_otherwise(
    monkeypatch, tmp_path
):
    kept = {}
    monkeypatch.setattr(jax.config, "update", kept.__setitem__)
    least = "jax_persistent_cache_min_compile_time_secs"
    assert least.upper() in os.environ, "the tests say otherwise"
    cache.enable(str(tmp_path))
    assert least not in kept
    monkeypatch.delenv(least.upper())
    cache.enable(str(tmp_path))
    assert kept[least] == 0.5


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
    status, _, err = processes.run(
        *("lconv_jax.main", "--config=tests/tiny_config.py", f"--workdir={workdir}"),
        *(f"--compilation_cache={folder}", "--config.train.epochs=4"),
    )
    assert status == 0, err
    return json.loads((workdir / "summary.json").read_text())["time/compile_seconds"], err


def _written(folder):
    """When each program of the folder was written; a file beside it says when it was last read."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*-cache")}


@pytest.mark.slow
@pytest.mark.optimized
def test_a_second_run_compiles_little_and_ends_with_the_same_bits(tmp_path):
    folder = tmp_path / "cache"
    without, _ = _run(tmp_path / "without", "")
    assert not folder.exists()
    first, _ = _run(tmp_path / "first", folder)
    kept = _written(folder)
    (steps,) = (path for path in kept if "train_steps" in path.name)
    second, errors = _run(tmp_path / "second", folder)
    assert beside_life(errors) == []
    # All that was kept was read, none written again, and nothing else was compiled: the tests keep
    # whatever takes any time.
    assert _written(folder) == kept
    # A third or less: measured, a tenth to a twentieth.
    assert second < min(without, first) / 3
    _assert_same_run(tmp_path / "first", tmp_path / "without")
    _assert_same_run(tmp_path / "second", tmp_path / "without")

    # What does not read back is compiled again.
    steps.write_bytes(steps.read_bytes()[: steps.stat().st_size // 2])
    _, errors = _run(tmp_path / "third", folder)
    assert "Error reading persistent compilation cache entry for 'jit_train_steps'" in errors
    _assert_same_run(tmp_path / "third", tmp_path / "without")
