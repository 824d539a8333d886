"""Save, verify and restore: a checkpoint is trusted only if every part has the digest it had.

Orbax writes a step into a temporary folder and renames it, so a kill leaves either the whole
checkpoint or none. The digests detect damage that Orbax does not notice: truncated, deleted or
flipped parts. A checkpoint that is unreadable for another reason, such as a permission, stays where
it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from lconv_jax.host import places
from lconv_jax.host.failures import attempt, passing, unreadable
from lconv_jax.host.files import free_name
from lconv_jax.parallel import distributed

DAMAGED = "damaged"
_STATE, _DIGESTS, _RECORD = "state", "digests", "record"
_PARTS = "_CHECKPOINT_METADATA"


class CheckpointError(OSError):
    """A checkpoint that cannot be written or trusted; the message says what remains."""


class Checkpoints:
    """The checkpoints of one run, in `directory`/<step>/; the newest `keep` are kept.

    Use as a context manager. `save` returns once the checkpoint is on disk. With several
    processes all call `save` and `restore`, and see one directory.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        self.directory = os.path.abspath(directory)
        self._keep = keep
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._manager is None:
            return
        if kind is None:
            self._manager.close()
        else:  # which has been told
            attempt(self._manager.close, own=CheckpointError)

    def steps(self) -> list[int]:
        """The steps with a complete checkpoint, oldest first."""
        return sorted(
            int(name)
            for name in _names(self.directory)
            if name.isascii() and name.isdigit() and name == str(int(name))
        )

    def save(self, step: int, state: Any, record: Mapping[str, Any] | None = None) -> None:
        """Writes `state`, the digest of each of its leaves, and a record.

        Args:
          step: of the run.
          state: dataclass or dict of arrays.
          record: a mapping that JSON can represent; `record` reads it.

        Raises:
          CheckpointError: it could not be written; earlier checkpoints are kept.
        """
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(_fields(state)),
                _DIGESTS: ocp.args.JsonSave(leaf_digests(state)),
                _RECORD: ocp.args.JsonSave(
                    {"record": dict(record or {}), "sha256": _digest_of(record or {})}
                ),
            }
        )

        def write() -> None:
            if self._manager is None:
                options = ocp.CheckpointManagerOptions(
                    max_to_keep=self._keep,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=True,
                )
                self._manager = ocp.CheckpointManager(self.directory, options=options)
            self._manager.save(step, args=args, force=True)
            self._manager.wait_until_finished()

        _, failure = attempt(write, own=CheckpointError)
        if failure is not None:
            raise CheckpointError(
                f"checkpoint {step} could not be written to {self.directory} "
                f"({failure.passing or failure.text}); earlier checkpoints are kept"
            )

    def record(self, step: int) -> dict[str, Any]:
        """The record that was saved with the checkpoint of `step`; {} if there is none.

        Raises:
          ValueError: it is not as it was written.
        """
        folder = os.path.join(self.directory, str(step), _RECORD)
        if not os.path.lexists(folder):
            if _RECORD in self._parts(step):
                raise ValueError(f"its {_RECORD} is gone")
            return {}
        stored = json.loads(places.read(os.path.join(folder, "metadata")))
        if stored["sha256"] != _digest_of(stored["record"]):
            raise ValueError(f"the digest of its {_RECORD} is not the one stored")
        return stored["record"]

    def _parts(self, step: int) -> Mapping[str, Any]:
        """The parts that were saved with a checkpoint, by Orbax's own account, if it has one."""
        path = os.path.join(self.directory, str(step), _PARTS)
        if not os.path.lexists(path):
            return {}
        return json.loads(places.read(path)).get("item_handlers") or {}

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The newest checkpoint that verifies, as (step, state), or None if there never was one.

        A newer one that does not is moved to damaged/<step> with a warning, never deleted.

        Args:
          like: the state's tree of `jax.ShapeDtypeStruct`, with the shardings to restore to.

        Raises:
          CheckpointError: if there are checkpoints, or damaged ones set aside, but none verifies;
            or if one, which stays in place, cannot be read for another reason than damage, or
            holds a state of another structure (written by other versions of the code, say).
        """
        if jax.process_count() == 1:
            return self._restore_newest(like)
        # If only one process met damage, the others would wait for it in the middle of a read. So
        # the first process alone finds a sound checkpoint, and then all processes read it.
        sound = distributed.together(lambda: self._newest_sound(like))
        step = int(distributed.from_first(str(sound)))
        return (step, self.restore_step(step, like)) if step >= 0 else None

    def _newest_sound(self, like: Any) -> int:
        """The newest step that verifies, or −1, in the first process; −1 in the others."""
        if not distributed.is_first():
            return -1
        # Not in memory, whatever their shape: they say that NumPy arrays are wanted.
        empty = jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), like)
        restored = self._restore_newest(empty)
        return restored[0] if restored else -1

    def _restore_newest(self, like: Any) -> tuple[int, Any] | None:
        for step in reversed(self.steps()):
            state, damage = self._read(step, like)
            if not damage:
                return step, state
            self._set_aside(step, damage)
        if _names(os.path.join(self.directory, DAMAGED)):
            raise CheckpointError(
                f"all checkpoints in {self.directory} are damaged; they were moved to {DAMAGED}/ "
                "there. Bring one back from a copy, or start in another --workdir"
            )
        return None

    def _read(self, step: int, like: Any) -> tuple[Any, str]:
        """The state of a checkpoint and "", or None and a description of its damage.

        Raises:
          CheckpointError: it cannot be read now, or holds a state of another structure.
        """
        path = os.path.join(self.directory, str(step))
        damage = ""
        # Twice, as the libraries take a file that could not be opened for one that is not there.
        for _ in range(2):
            state, failure = attempt(lambda: self.restore_step(step, like), own=CheckpointError)
            if failure is None:
                return state, ""
            damage = failure.text
            reason = failure.passing or unreadable(path)
            if reason:
                raise CheckpointError(
                    f"checkpoint {path} cannot be read now ({reason}); it is not known to be "
                    "damaged, and stays where it is"
                )
        return None, damage

    def restore_step(self, step: int, like: Any) -> Any:
        """The checkpoint of `step`, which stays where it is if it does not verify.

        Raises:
          CheckpointError: it holds a state of another structure.
          ValueError: a leaf has another digest than it had.
        """
        path = os.path.join(self.directory, str(step))
        options = _participants(like)
        handler = ocp.JsonCheckpointHandler()
        with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
            stored = reader.restore(os.path.join(path, _DIGESTS))
        names = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(like)}
        other = sorted(names ^ set(stored))
        with ocp.StandardCheckpointer(multiprocessing_options=options) as reader:
            try:
                state = reader.restore(os.path.join(path, _STATE), _fields(like))
            except Exception as error:
                if not other or passing(error):
                    raise
                raise CheckpointError(
                    f"checkpoint {path} holds a state of another structure: {other[0]} is in only "
                    "one of the two. Other versions of the code wrote the checkpoint: use these "
                    "versions, or start in another --workdir"
                ) from error
        if other:  # and yet the state has the structure: it is the names that are wrong
            raise ValueError(f"{other[0]} is not named in both the state and its digests")
        if dataclasses.is_dataclass(like) and not isinstance(like, type):
            state = dataclasses.replace(like, **state)
        digests = leaf_digests(state)
        wrong = sorted(name for name in digests if stored[name] != digests[name])
        if wrong:
            raise ValueError(f"the digest of {', '.join(wrong)} is not the one stored")
        # Of which step it is, its folder's name says, and the state does.
        own = int(distributed.fetch(getattr(state, "step", step)))
        if own != step:
            raise ValueError(f"it is the checkpoint of step {own}, in a folder of another name")
        self.record(step)
        return state

    def arrays(self, step: int, fields: Sequence[str]) -> dict[str, Any]:
        """Fields of the state of a checkpoint, as NumPy arrays in nested dictionaries.

        The shapes come from the checkpoint itself, so that neither data nor model are needed.
        Nothing is moved or written, so that the run may go on meanwhile.

        Raises:
          CheckpointError: it cannot be read, or does not read back as it was written.
        """
        found, failure = attempt(lambda: self._arrays(step, fields), own=CheckpointError)
        if failure is not None or found is None:
            why = failure and (failure.passing or failure.text)
            raise CheckpointError(
                f"checkpoint {os.path.join(self.directory, str(step))} cannot be read, or is not "
                f"as it was written ({why}); take another"
            )
        return found

    def _arrays(self, step: int, fields: Sequence[str]) -> dict[str, Any]:
        path = pathlib.Path(self.directory, str(step))
        handler = ocp.PyTreeCheckpointHandler()
        stored = handler.metadata(path / _STATE).tree
        tree = {name: stored[name] for name in ("step", *fields)}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        with ocp.Checkpointer(handler) as reader:
            args = ocp.args.PyTreeRestore(tree, restore_args=as_numpy, partial_restore=True)
            found = reader.restore(path / _STATE, args=args)
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            digests = reader.restore(path / _DIGESTS)
        for name in tree:
            for leaf, digest in leaf_digests(found[name]).items():
                if digests.get(f".{name}{leaf}") != digest:
                    raise ValueError(f"the digest of .{name}{leaf} is not the one stored")
        if int(found["step"]) != step:
            raise ValueError(f"it is the checkpoint of step {int(found['step'])}")
        return {name: found[name] for name in fields}

    def _set_aside(self, step: int, damage: str) -> None:
        aside = free_name(os.path.join(self.directory, DAMAGED, str(step)))
        folder = os.path.dirname(aside)
        if os.path.islink(folder) or (os.path.lexists(folder) and not os.path.isdir(folder)):
            raise CheckpointError(
                f"checkpoint {step} is damaged ({damage}), and {folder}, where it would be moved, "
                "is no folder of its own; move that elsewhere"
            )
        os.makedirs(folder, exist_ok=True)
        os.rename(os.path.join(self.directory, str(step)), aside)
        logging.warning(
            "Checkpoint %d is damaged (%s); it was moved to %s and the one before it is used.",
            step,
            damage,
            aside,
        )


def _names(directory: str) -> list[str]:
    """The contents of a directory, none if it does not exist."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _fields(state: Any) -> Any:
    """A state without those of its fields that are None, which leave no trace on the disk."""
    if not dataclasses.is_dataclass(state):
        return state
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if value is not None}


def _participants(like: Any) -> ocp.options.MultiprocessingOptions:
    """All processes read the shards on their own devices; one alone reads NumPy arrays."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(like)):
        return ocp.options.MultiprocessingOptions()
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix="alone"
    )


def _digest_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def leaf_digests(state: Any) -> dict[str, str]:
    """SHA-256 (hex) of each leaf's type, shape and bytes, by its path in the tree."""
    digests = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(distributed.fetch(leaf))
        head = f"{array.dtype} {array.shape}\n".encode()
        digests[jax.tree_util.keystr(path)] = hashlib.sha256(head + array.tobytes()).hexdigest()
    return digests
