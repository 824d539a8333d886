"""What a session leaves for the next, and what it refuses to begin from."""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from lconv_jax.rundir import directory as rundir
from lconv_jax.rundir import session
from lconv_jax.rundir.checkpoint import CheckpointError

STATE = {"weights": jnp.arange(3.0)}
LIKE = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), STATE
)
TOTAL = 30


def _open(directory):
    return session.open_session(str(directory), keep=2, like=LIKE, total_steps=TOTAL)


def _train(directory, through, *, save=True):
    with _open(directory) as (work, _):
        for step in range(work.step + 10, through + 1, 10):
            work.writer.write(step, {"train/loss": 1.0, "eval/accuracy": 0.5})
            if save:
                work.save(step, STATE)
        return work.history


@pytest.fixture
def half(tmp_path):
    """A run at step 20 of 30, after two sessions."""
    _train(tmp_path, 10)
    _train(tmp_path, 20)
    return tmp_path


def _spans(history):
    return [(each["from"], each["to"]) for each in history]


def test_each_session_says_its_steps_and_what_made_them(half, monkeypatch):
    monkeypatch.setattr(session, "made_by", lambda: {"device": "8 × other", "versions": {}})
    history = _train(half, 30)
    assert _spans(history) == [(0, 10), (10, 20), (20, 30)]
    assert history[1]["device"] == rundir.made_by()["device"]
    assert history[1]["versions"]["jax"] == jax.__version__
    assert history[2]["device"] == "8 × other"
    assert json.loads((half / rundir.SESSIONS_FILE).read_text()) == history


def test_a_session_that_saved_nothing_leaves_no_trace(half):
    assert _spans(_train(half, 30, save=False)) == [(0, 10), (10, 20)]
    assert _spans(_train(half, 30)) == [(0, 10), (10, 20), (20, 30)]


@pytest.mark.slow
def test_steps_done_again_are_those_of_the_later_session(half):
    shutil.rmtree(half / rundir.CHECKPOINTS / "20" / "state")
    assert _spans(_train(half, 30)) == [(0, 10), (10, 30)]


def test_checkpoints_that_are_gone_are_no_fresh_start(half):
    before = (half / "metrics.jsonl").read_bytes()
    shutil.rmtree(half / rundir.CHECKPOINTS)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"gone, though .*sessions\.json"), _open(half):
            pass
    assert (half / "metrics.jsonl").read_bytes() == before


def test_a_run_killed_before_it_saved_begins_again(tmp_path):
    _train(tmp_path, 10, save=False)
    with _open(tmp_path) as (work, state):
        assert (work.step, state, work.writer.last) == (0, None, {})


def test_the_last_metrics_are_not_made_up(half):
    _train(half, 30)
    (half / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match="has lost lines of step 30"), _open(half):
        pass
