"""A checkpoint is restored as it was saved, or not at all."""

import errno
import gc
import json
import logging
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lconv_jax.rundir import checkpoint
from lconv_jax.rundir.checkpoint import DAMAGED, CheckpointError, Checkpoints, leaf_digests
from lconv_jax.training.state import TrainState


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
            checkpoints.save(step, _state(step), {"device": step})
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
        checkpoints.save(3, state)
        _, restored = checkpoints.restore(_like(state))
    assert isinstance(restored, TrainState)
    assert restored.kept is None
    _assert_equal(restored, state)
    on_disk = json.loads((tmp_path / "3" / "state" / "_METADATA").read_text())
    assert "kept" not in json.dumps(on_disk)


@pytest.mark.slow
def test_a_checkpoint_under_another_step_s_name_is_not_taken_for_that_step(tmp_path):
    states = {
        step: TrainState(jnp.int32(step), _state(step)["params"], {}, optax.EmptyState())
        for step in (1, 2)
    }
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in states.items():
            checkpoints.save(step, state)
    (tmp_path / "2").rename(tmp_path / "7")
    (tmp_path / "²").mkdir()
    (tmp_path / "009").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 7]
        step, restored = checkpoints.restore(_like(states[1]))
    assert step == 1
    _assert_equal(restored, states[1])
    assert (tmp_path / DAMAGED / "7").is_dir()


@pytest.mark.slow
def test_a_record_that_is_gone_is_damage(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "2" / "record")
    with Checkpoints(tmp_path / "copy") as checkpoints:
        step, _ = checkpoints.restore(_like(_state(0)))
        assert (step, checkpoints.record(1)) == (1, {"device": 1})


@pytest.mark.slow
def test_nothing_is_moved_through_a_link(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "copy")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "copy" / DAMAGED).symlink_to(tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "copy" / "2" / "digests")
    with (
        pytest.raises(CheckpointError, match="no folder of its own"),
        Checkpoints(tmp_path / "copy") as checkpoints,
    ):
        checkpoints.restore(_like(_state(0)))
    assert not list((tmp_path / "elsewhere").iterdir())


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_with_every_checkpoint_damaged_nothing_starts_over(saved, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    for step in ("1", "2"):
        shutil.rmtree(directory / step / "state")
    for _ in range(2):  # nor does a second start begin anew
        with (
            Checkpoints(directory) as checkpoints,
            pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged"),
        ):
            checkpoints.restore(_like(_state(0)))
    assert {p.name for p in (directory / DAMAGED).iterdir()} == {"1", "2"}


@pytest.mark.slow
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
        pytest.raises(CheckpointError, match=r"another structure: \['moments'\]"),
    ):
        checkpoints.restore(like)
    assert (directory / "2").is_dir()
    assert not (directory / DAMAGED).exists()


def _caused(error, reason):
    error.__cause__ = reason
    return error


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.EIO, "Input/output error"),
        InterruptedError("interrupted"),
        _caused(FileNotFoundError("not found"), OSError(errno.ESTALE, "Stale file handle")),
        ExceptionGroup("two", [ValueError("a"), OSError(errno.EIO, "Input/output error")]),
        ValueError("UNKNOWN: Error reading local file [os_error_code='24' source locations]"),
        RuntimeError("RESOURCE_EXHAUSTED: out of memory"),
        MemoryError(),
    ],
    ids=lambda error: f"{type(error).__name__}-{error}"[:30],
)
def test_what_may_pass_is_no_damage(saved, tmp_path, monkeypatch, error):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)

    def fail(state):
        raise error

    monkeypatch.setattr(checkpoint, "leaf_digests", fail)
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(CheckpointError, match=r"/2 cannot be read now"),
    ):
        checkpoints.restore(_like(_state(0)))
    assert Checkpoints(directory).steps() == [1, 2]


@pytest.mark.parametrize("part", ["digests/metadata", "record/metadata", "state/manifest.ocdbt"])
def test_a_file_that_cannot_be_opened_is_no_damage(saved, tmp_path, part):
    # Orbax takes one that leads to itself, as others that cannot be opened, for one that is gone.
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    (directory / "2" / part).unlink()
    (directory / "2" / part).symlink_to(directory / "2" / part)
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(CheckpointError, match="Too many levels of symbolic links"),
    ):
        checkpoints.restore(_like(_state(0)))
    assert Checkpoints(directory).steps() == [1, 2]


def test_a_part_that_is_back_at_the_second_look_is_no_damage(saved, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    errors = [FileNotFoundError("not found")]

    def fail_once(state):
        if errors:
            raise errors.pop()
        return leaf_digests(state)

    monkeypatch.setattr(checkpoint, "leaf_digests", fail_once)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore(_like(_state(0)))[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digests", "record"])
def test_a_flipped_letter_of_a_name_is_damage(saved, tmp_path, name):
    directory = tmp_path / "run"
    shutil.copytree(saved, directory)
    file = directory / "2" / name / "metadata"
    text = file.read_text()
    letter = text.index("kernel" if name == "digests" else "device")
    file.write_text(text[:letter] + "l" + text[letter + 1 :])
    with Checkpoints(directory) as checkpoints:
        step, state = checkpoints.restore(_like(_state(0)))
        assert checkpoints.record(step) == {"device": 1}
    assert step == 1
    _assert_equal(state, _state(1))
    assert (directory / DAMAGED / "2").is_dir()


def test_a_checkpoint_without_a_record_has_an_empty_one(saved, tmp_path):
    shutil.copytree(saved / "1", tmp_path / "run" / "1")
    shutil.rmtree(tmp_path / "run" / "1" / "record")
    # As it was written before there were records.
    parts = tmp_path / "run" / "1" / "_CHECKPOINT_METADATA"
    account = json.loads(parts.read_text())
    del account["item_handlers"]["record"]
    parts.write_text(json.dumps(account))
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.restore(_like(_state(0)))[0] == 1
        assert checkpoints.record(1) == {}


@pytest.mark.slow
def test_a_save_that_fails_says_so_once(tmp_path, monkeypatch, capfd):
    place = tmp_path / "checkpoints"
    with Checkpoints(place) as checkpoints:
        checkpoints.save(1, _state(1))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            with pytest.raises(CheckpointError, match=r"2 could not be written .*too large"):
                checkpoints.save(2, _state(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        gc.collect()
    assert capfd.readouterr() == ("", "")
    with Checkpoints(place) as checkpoints:
        assert checkpoints.restore(_like(_state(0)))[0] == 1
