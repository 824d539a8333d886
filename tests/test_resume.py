"""Kills, signals and damage, each in a real process: the run ends with the bits it would have.

How a process begins and ends is that of `python -m lconv_jax.main` where a test is about it; others
fork it, see `tests/processes.py`.
"""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from lconv_jax.rundir import metrics
from lconv_jax.rundir.checkpoint import DAMAGED
from tests import processes
from tests.helpers import beside_life, final_digests, timeless
from tests.processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.optimized]
MAIN = "lconv_jax.main", "--config=tests/tiny_config.py"


def _start(workdir, *overrides):
    return processes.start(*MAIN, f"--workdir={workdir}", *overrides)


def _run(workdir, *overrides):
    return processes.run(*MAIN, f"--workdir={workdir}", *overrides)


def _run_from_nothing(workdir, *overrides, limit=None):
    """Of a process that nothing was done for; no file of it may grow beyond `limit` bytes."""

    def limit_file_size():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.run(
        [sys.executable, "-m", *MAIN, f"--workdir={workdir}", *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit_file_size,
    )
    return process.returncode, process.stdout, process.stderr


def _assert_same_run(workdir, reference):
    assert final_digests(workdir) == final_digests(reference)
    assert timeless(workdir) == timeless(reference)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("reference")
    status, out, err = _run_from_nothing(workdir)
    assert status == 0, err
    assert "test accuracy: 0." in out
    assert beside_life(err) == []
    assert err.startswith("s_fc, α = 4, 11,200 weights, by beta_lasso on digits: 1,437 examples")
    assert [line.split("  ")[0] for line in err.splitlines() if line.startswith("epoch")] == [
        f"epoch {epoch} of 12" for epoch in (4, 8, 12)
    ]
    return workdir


def _wait_until(process, happened):
    """Returns once `happened()`; the process must still be at work then."""
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


def _saved(workdir):
    return {p.name for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()}


def _saving(workdir):
    return list((workdir / "checkpoints").glob("*tmp*"))


def _kill(process):
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_sigkill_at_any_moment_and_again(reference, tmp_path):
    moments = random.Random(0)
    # Before there is a checkpoint; then in the middle of a save; then twice somewhere between
    # saves: within a call of the loop, an evaluation, a write.
    process = _start(tmp_path)
    _wait_until(process, (tmp_path / metrics.METRICS_FILE).exists)
    _kill(process)
    process = _start(tmp_path)
    _wait_until(process, lambda: _saving(tmp_path))
    _kill(process)
    for _ in range(2):
        before = _saved(tmp_path)
        process = _start(tmp_path)
        _wait_until(process, lambda before=before: _saved(tmp_path) - before)
        time.sleep(moments.random() * 0.02)
        _kill(process)
    status, _, err = _run(tmp_path)
    assert status == 0, err
    _assert_same_run(tmp_path, reference)


def test_a_streamed_run_that_was_killed_ends_like_one_in_memory(reference, tmp_path):
    process = _start(tmp_path, "--config.data.stream=always")
    _wait_until(process, lambda: _saved(tmp_path))
    _kill(process)
    status, _, err = _run(tmp_path, "--config.data.stream=always")
    assert (status, beside_life(err)) == (0, [])
    _assert_same_run(tmp_path, reference)


def test_sigterm_saves_and_the_run_goes_on(reference, tmp_path):
    process = _start(tmp_path)
    _wait_until(process, lambda: _saved(tmp_path))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "SIGTERM: saved at step" in err
    step = int(err.split("saved at step ")[1].split(";")[0])
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    assert _run(tmp_path)[0] == 0
    _assert_same_run(tmp_path, reference)


def test_a_second_ctrl_c_ends_it_at_once_whatever_it_is_doing(reference, tmp_path):
    process = _start(tmp_path)
    _wait_until(process, lambda: _saving(tmp_path))
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    (line,) = beside_life(err)
    assert line.startswith(("interrupted: the saved state is kept", "SIGINT: saved at step"))
    status, _, err = _run(tmp_path)
    assert (status, beside_life(err)) == (0, [])
    _assert_same_run(tmp_path, reference)


def _cut_back(workdir):
    """Makes a finished run one that was killed after its newest checkpoint."""
    (workdir / "summary.json").unlink()


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip"])
def test_a_damaged_newest_checkpoint_is_set_aside(reference, tmp_path, damage):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    _cut_back(workdir)
    newest, _ = final_digests(workdir)
    folder = workdir / "checkpoints" / str(newest) / "state"
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=os.path.getsize)
    content = bytearray(largest.read_bytes())
    if damage == "truncate":
        largest.write_bytes(content[: len(content) // 2])
    elif damage == "delete":
        shutil.rmtree(folder)
    else:
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    status, _, err = _run(workdir)
    assert status == 0, err
    assert f"Checkpoint {newest} is damaged" in err
    assert (workdir / "checkpoints" / DAMAGED / str(newest)).is_dir()
    _assert_same_run(workdir, reference)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("--config.optimizer.beta=6", "config.optimizer.beta: 10.0 there, 6.0 here"),
        ("--config.train.epochs=0", "config.train.epochs = 0 must be ≥ 1"),
        ("--config.train.epoch=3", "epochs"),
        ("--config.train.epochs=many", "many"),
    ],
)
def test_what_cannot_be_run_is_refused_and_nothing_changes(reference, override, says):
    before = {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.name != ".lock"}
    status, _, err = _run(reference, override)
    assert status != 0
    assert says in err
    assert "Traceback" not in err
    after = {p: p.stat().st_mtime_ns for p in reference.rglob("*") if p.name != ".lock"}
    assert before == after


def test_what_cannot_be_run_leaves_no_directory_behind(tmp_path):
    status, _, err = _run(tmp_path / "new", "--config.optimizer.beta=-1")
    assert status == 1
    assert "config.optimizer.beta = -1.0 must be ≥ 0" in err
    assert not (tmp_path / "new").exists()


def test_a_run_that_diverges_exits_with_its_reason(tmp_path):
    overrides = ("--config.optimizer.learning_rate=1e30", "--config.optimizer.beta=0")
    status, _, err = _run(tmp_path, *overrides)
    assert status == 1
    assert "error: the loss is not finite at step" in err
    assert "Traceback" not in err


def test_a_full_disk_is_reported_and_nothing_is_lost(reference, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(reference, workdir)
    _cut_back(workdir)
    newest, _ = final_digests(workdir)
    shutil.rmtree(workdir / "checkpoints" / str(newest))
    before = (workdir / metrics.METRICS_FILE).read_bytes()
    # No file may grow beyond 20 kB: what a write to a full disk meets, without a disk to fill.
    status, _, err = _run_from_nothing(workdir, limit=20_000)
    assert status == 1
    assert "error:" in err
    assert "the saved state is kept" in err
    assert (workdir / metrics.METRICS_FILE).read_bytes() == before
    assert _run(workdir)[0] == 0
    _assert_same_run(workdir, reference)


def test_a_save_that_the_disk_does_not_take_is_reported(tmp_path):
    # Every tenth step logged: metrics and events stay below the limit, the arrays do not.
    status, _, err = _run_from_nothing(tmp_path, "--config.log.every_steps=1000", limit=20_000)
    assert status == 1
    said, remedy = beside_life(err)  # and nothing of the libraries' own, before or after
    assert said.startswith("error: checkpoint 22 could not be written")
    assert said.endswith("File too large); earlier checkpoints are kept")
    assert remedy.startswith("the saved state is kept")
    assert _run(tmp_path, "--config.log.every_steps=1000")[0] == 0


def test_a_terminal_shows_where_the_run_is(tmp_path):
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *MAIN, f"--workdir={tmp_path}", "--config.train.epochs=4"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "140"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait() == 0
    for word in (b"epoch", b"loss", b"density", b"test", b"eta", b"100%"):
        assert word in shown
