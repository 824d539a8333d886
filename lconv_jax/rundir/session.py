"""A session: the part of a run that one process computes, from the checkpoint where it starts.

Each checkpoint records the sessions that led to it, and the lines of metrics that belong to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from lconv_jax.host.files import write_atomically
from lconv_jax.parallel import distributed
from lconv_jax.rundir.checkpoint import CheckpointError, Checkpoints
from lconv_jax.rundir.directory import CHECKPOINTS, SESSIONS_FILE, SUMMARY_FILE, made_by
from lconv_jax.rundir.metrics import METRICS_FILE, MetricsWriter, read_metrics


@dataclasses.dataclass
class Session:
    """A run that is being worked at.

    Attributes:
      directory: where this process writes.
      writer: of the metrics.
      step: where the session began; 0 for a run that begins.
      saved: the newest step saved, 0 if there is none yet.
    """

    directory: str
    writer: MetricsWriter
    step: int
    saved: int
    _checkpoints: Checkpoints
    _earlier: list[dict[str, Any]]

    def save(self, step: int, state: Any) -> None:
        """Saves the state of a step, and the metrics up to there.

        Raises:
          OSError: something could not be written; the state saved before is kept.
        """
        self.writer.flush()
        history = self._history(step)
        record = {"sessions": history, "metrics": self.writer.record()}
        self._checkpoints.save(step, state, record)
        self.saved = step
        path = os.path.join(self.directory, SESSIONS_FILE)
        write_atomically(path, json.dumps(history, indent=2) + "\n")

    @property
    def history(self) -> list[dict[str, Any]]:
        """Of each session that led to the newest checkpoint: its steps, device and versions."""
        return self._history(self.saved)

    def _history(self, step: int) -> list[dict[str, Any]]:
        own = {"from": self.step, "to": step, **made_by()}
        return [*self._earlier, own] if step > self.step else self._earlier


@contextlib.contextmanager
def open_session(
    directory: str, keep: int, like: Any, total_steps: int, shared: str | None = None
) -> Iterator[tuple[Session, Any]]:
    """Goes on from the newest checkpoint of a run directory that verifies, or begins.

    Yields the session and the state that it goes on from, None for a run that begins.

    Args:
      directory: where this process writes.
      keep: how many checkpoints are kept.
      like: see `Checkpoints.restore`.
      total_steps: of the run.
      shared: the directory of the checkpoints, where it is another one.

    Raises:
      CheckpointError: a checkpoint cannot be read, none verifies, or they are gone; or the metrics
        of the last step are.
    """
    checkpoints = Checkpoints(os.path.join(shared or directory, CHECKPOINTS), keep)
    with contextlib.ExitStack() as stack:
        stack.enter_context(checkpoints)
        step, state = checkpoints.restore(like) or (0, None)
        record = checkpoints.record(step) if step else {}

        def begin() -> MetricsWriter:
            sessions = os.path.join(directory, SESSIONS_FILE)
            if not step and os.path.lexists(sessions):
                raise CheckpointError(
                    f"the checkpoints in {checkpoints.directory} are gone, though {sessions} says "
                    "that there were some. Bring them back from a copy, or start in another "
                    "--workdir"
                )
            # The other processes have no metrics of before.
            first = distributed.is_first()
            writer = stack.enter_context(
                MetricsWriter(directory, step if first else 0, record.get("metrics"))
            )
            if first and step == total_steps:
                _check_end(directory, step)
            return writer

        writer = distributed.together(begin)
        earlier = record.get("sessions", [])
        yield Session(directory, writer, step, step, checkpoints, earlier), state


def _check_end(directory: str, step: int) -> None:
    """Raises CheckpointError unless the metrics of the last step are there."""
    names = {name for line in read_metrics(directory) if line["step"] == step for name in line}
    # An evaluation, of whatever splits, has the second.
    if not {"train/loss", "time/seconds"} <= names:
        raise CheckpointError(
            f"{directory}/{METRICS_FILE} has lost lines of step {step}, the last step, and "
            f"{SUMMARY_FILE} needs them. Bring the file back from a copy, or start in another "
            "--workdir"
        )
