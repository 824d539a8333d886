"""The metrics of a run as it goes: metrics.jsonl, one object a line, and TensorBoard events."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from numpy.typing import NDArray
from tensorboardX import summary

from lconv_jax import mdl
from lconv_jax.host import places
from lconv_jax.host.files import free_name, naming, no_link, write_atomically
from lconv_jax.parallel import distributed
from lconv_jax.rundir.events import EventWriter

METRICS_FILE = "metrics.jsonl"
# Prefixes of the metrics of a split.
PREFIXES = {"test": "eval", "validation": "validation"}
# A histogram of more weights than this looks the same and takes seconds of the host's time.
_HISTOGRAM_SIZE = 200_000
# Edges of a histogram's bins, as TensorBoard draws them: 10 % apart on either side of 0.
_POSITIVE = 1e-12 * 1.1 ** np.arange(774)
_BINS = np.concatenate([-_POSITIVE[::-1], [0.0], _POSITIVE])


class MetricsWriter:
    """Appends to the metrics of a run directory, after cutting them back to `through_step`.

    Args:
      workdir: the run directory.
      through_step: the step that the run goes on from, 0 for a run that begins.
      record: the return value of `record` when that step was saved, None if it was not kept. If the
        lines up to the step differ from it, a warning names the missing lines, and the damaged
        file is kept beside the new one.

    Attributes:
      last: the last value of each metric.

    Raises:
      OSError: naming the file, here and in every method, if it cannot be read or written.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        through_step: int,
        record: Mapping[str, Any] | None = None,
    ):
        self._path = os.path.join(workdir, METRICS_FILE)
        kept = _cut_back(self._path, through_step, record)
        self.last: dict[str, Any] = {}
        for line in kept:
            self.last.update(json.loads(line))
        self._lines, self._sha256 = len(kept), hashlib.sha256(b"".join(kept))
        self._file = open(self._path, "ab", opener=no_link)  # noqa: SIM115, closed by close()
        self._events = EventWriter(workdir, purge_step=through_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl."""
        values = {"step": step, **values}
        line = json.dumps(values, allow_nan=False).encode() + b"\n"
        with naming(self._path):
            self._file.write(line)
        self._lines += 1
        self._sha256.update(line)
        self.last.update(values)

    def write_board(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds scalars to the TensorBoard events."""
        for name, value in values.items():
            self._events.add(step, summary.scalar(name, value))

    def write_weights(self, step: int, layers: Mapping[str, Any], filters: Any) -> None:
        """Adds a histogram of each layer's non-zero weights and an image of filters [H, W, 3]."""
        for name, kernel in layers.items():
            stride = max(1, kernel.size // _HISTOGRAM_SIZE)
            weights = distributed.fetch(kernel.reshape(-1)[::stride])
            weights = weights[weights != 0]
            if weights.size:
                self._events.add(step, summary.histogram(f"weights/{name}", weights, _BINS))
        self._events.add(step, summary.image("filters", filters, dataformats="HWC"))

    def push(self) -> None:
        """Makes the written lines visible to other programs; they may not be on disk yet."""
        with naming(self._path):
            self._file.flush()

    def flush(self) -> None:
        """Returns once everything written is on disk."""
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
        self._events.flush()

    def record(self) -> dict[str, Any]:
        """The number of lines and their SHA-256 (hex), for the record of a checkpoint."""
        return {"lines": self._lines, "sha256": self._sha256.hexdigest()}

    def close(self) -> None:
        with contextlib.closing(self._events), contextlib.closing(self._file):
            self.flush()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The error that ends the run matters more than an error of this last write.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            self.close()


def _cut_back(path: str, through_step: int, record: Mapping[str, Any] | None) -> list[bytes]:
    """Cuts a file of metrics back to a step, and returns its lines; says so if some are missing."""
    whole = _read(path)
    lines = _split(whole)
    kept = lines[: record["lines"]] if record else []
    if record is None or hashlib.sha256(b"".join(kept)).hexdigest() != record["sha256"]:
        steps = [values["step"] if values else None for values in map(_parse, lines)]
        up_to = [n for n, step in enumerate(steps) if step is not None and step <= through_step]
        kept = [lines[n] for n in up_to]
        end = record["lines"] if record else max(up_to, default=0)
        unread = [str(n + 1) for n, step in enumerate(steps[:end]) if step is None]
        if through_step and (record or unread or not kept):
            left = f"{len(kept)} of {record['lines']}" if record else f"{len(kept)}"
            if unread:
                left += f", without line {', '.join(unread[:5])}{', …' * (len(unread) > 5)}"
            found = ""
            if b"".join(kept) != whole:
                copy = free_name(f"{path}.damaged")
                write_atomically(copy, whole)
                found = f" The damaged file is kept as {copy}."
            logging.warning(
                "%s has changed since step %d was saved. The run goes on with the readable lines "
                "up to that step (%s); the other lines are lost.%s",
                *(path, through_step, left, found),
            )
    if b"".join(kept) != whole:
        write_atomically(path, b"".join(kept))
    return kept


def description_estimate(
    nonzeros: NDArray[Any],
    error: NDArray[Any],
    *,
    total: int,
    num_examples: int,
    bits: int,
    delta: float,
) -> dict[str, NDArray[np.float64]]:
    """The per-step estimate: Theorem 2's code with k = non-zeros + 1, and the batch's error.

    An estimate, not a certificate: the error is that of one augmented training batch, and the
    code is counted, not written.
    """
    length = mdl.theorem2_bits(nonzeros, nonzeros + 1, total, bits)
    bound = mdl.occam_bound(error, length, num_examples, delta / total)
    return {"mdl/estimate_bits": length, "mdl/estimate_bound": bound}


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a kill tore is left out.

    Raises:
      ValueError: naming the file and the line that is damaged.
    """
    path = os.path.join(workdir, METRICS_FILE)
    found = []
    for number, line in enumerate(_split(_read(path)), 1):
        values = _parse(line)
        if values is None:
            raise ValueError(
                f"{path}, line {number} is damaged: it is no JSON object with a step. Bring the "
                "file back from a copy, or delete that line"
            )
        found.append(values)
    return found


def _read(path: str) -> bytes:
    try:
        return places.read(path)
    except FileNotFoundError:
        return b""


def _split(whole: bytes) -> list[bytes]:
    """The complete lines; a last line without an end was cut off by a kill, and is dropped."""
    return [line + b"\n" for line in whole.split(b"\n")[:-1]]


def _parse(line: bytes) -> dict[str, Any] | None:
    """The metrics of a line, or None if they are no longer those of a step."""
    try:
        values = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and type(values.get("step")) is int else None


def column(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The steps and values of one metric, over the lines that have it."""
    have = [(line["step"], line[name]) for line in lines if name in line]
    steps, values = zip(*have, strict=True) if have else ((), ())
    return np.asarray(steps), np.asarray(values)
