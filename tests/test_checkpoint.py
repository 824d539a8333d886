"""A checkpoint is restored as it was saved, or not at all."""

import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lconv_jax import checkpoint
from lconv_jax.checkpoint import DAMAGED, CheckpointError, Checkpoints, leaf_digests
from lconv_jax.state import TrainState


def _state(value):
    kernel = jax.random.normal(jax.random.key(value), (40, 30))
    return {"step": jnp.int32(value), "params": {"kernel": kernel, "bias": jnp.full(3, value / 7)}}


def _like(state):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )


def _assert_equal(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), left, right)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(directory, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(step))
    return directory


def test_the_newest_comes_back_bit_for_bit(saved):
    with Checkpoints(saved) as checkpoints:
        step, state = checkpoints.restore(_like(_state(0)))
    assert step == 2
    _assert_equal(state, _state(2))


def test_a_field_that_a_state_does_not_have_leaves_no_trace(tmp_path):
    leaves = _state(3)
    state = TrainState(leaves["step"], leaves["params"], {}, optax.EmptyState())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        _, restored = checkpoints.restore(_like(state))
    assert isinstance(restored, TrainState)
    assert restored.kept is None
    _assert_equal(restored, state)
    on_disk = json.loads((tmp_path / "1" / "state" / "_METADATA").read_text())
    assert "kept" not in json.dumps(on_disk)


def test_only_the_newest_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (5, 10, 20, 40, 80):
            checkpoints.save(step, _state(step))
        assert checkpoints.steps() == [20, 40, 80]


def test_an_empty_directory_has_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert checkpoints.restore(_like(_state(0))) is None


def test_digests_tell_values_types_and_shapes_apart():
    zeros = {"a": np.zeros(4, np.float32)}
    others = [np.zeros(4, np.int32), np.zeros((2, 2), np.float32), -np.zeros(4, np.float32)]
    digests = {leaf_digests(zeros)["['a']"], *(leaf_digests({"a": x})["['a']"] for x in others)}
    assert len(digests) == 4


@pytest.mark.parametrize("damage", ["truncate", "delete", "flip"])
def test_damage_anywhere_gives_the_one_before_or_the_very_same(saved, tmp_path, damage, caplog):
    files = [p.relative_to(saved) for p in (saved / "2").rglob("*") if p.is_file()]
    set_aside = 0
    for index, name in enumerate(files):
        directory = tmp_path / str(index)
        shutil.copytree(saved, directory)
        victim = directory / name
        content = bytearray(victim.read_bytes())
        if damage == "delete":
            victim.unlink()
        elif content and damage == "truncate":
            victim.write_bytes(content[: len(content) // 2])
        elif content:
            content[len(content) // 2] ^= 0x10
            victim.write_bytes(content)
        with caplog.at_level(logging.WARNING), Checkpoints(directory) as checkpoints:
            step, state = checkpoints.restore(_like(_state(0)))
        _assert_equal(state, _state(step))  # whatever was damaged: no wrong state
        if step == 1:
            set_aside += 1
            assert (directory / DAMAGED / "2").is_dir()
            assert "Checkpoint 2 is damaged" in caplog.text
        caplog.clear()
    assert set_aside >= 3  # the arrays, their manifest, the digests


def test_with_every_checkpoint_damaged_nothing_starts_over(saved, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    for step in ("1", "2"):
        shutil.rmtree(directory / step / "state")
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(CheckpointError, match="none of the checkpoints"),
    ):
        checkpoints.restore(_like(_state(0)))
    assert {p.name for p in (directory / DAMAGED).iterdir()} == {"1", "2"}


def test_a_damaged_checkpoint_never_replaces_an_earlier_one(saved, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    for _ in range(2):
        shutil.rmtree(directory / "2" / "state")
        with Checkpoints(directory) as checkpoints:
            assert checkpoints.restore(_like(_state(0)))[0] == 1
        shutil.copytree(saved / "2", directory / "2")
    assert {p.name for p in (directory / DAMAGED).iterdir()} == {"2", "2.1"}


def test_a_state_of_another_structure_is_refused_and_stays(saved, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    like = _like(_state(0) | {"moments": jnp.zeros(3)})
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(CheckpointError, match=r"another structure; \['moments'\]"),
    ):
        checkpoints.restore(like)
    assert (directory / "2").is_dir()
    assert not (directory / DAMAGED).exists()


def test_no_memory_is_no_damage(saved, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)

    def exhausted(state):
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(checkpoint, "leaf_digests", exhausted)
    with Checkpoints(directory) as checkpoints, pytest.raises(CheckpointError, match="cannot be read now .RESOURCE_EXHAUSTED"):
        checkpoints.restore(_like(_state(0)))
    assert (directory / "2").is_dir()
