"""What a run writes as it goes: metrics.jsonl, one object a line, and TensorBoard events."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboardX import SummaryWriter

from lconv_jax import distributed, mdl

METRICS_FILE = "metrics.jsonl"
# A histogram of more weights than this looks the same and takes seconds of the host's time.
_HISTOGRAM_SIZE = 200_000


class MetricsWriter:
    """Appends to the metrics of a run directory, after cutting them back to `through_step`."""

    def __init__(self, workdir: str | os.PathLike[str], through_step: int):
        path = os.path.join(workdir, METRICS_FILE)
        self.last: dict[str, Any] = {}
        kept = [line for line in read_metrics(workdir) if line["step"] <= through_step]
        for line in kept:
            self.last.update(line)
        write_atomically(path, "".join(_dump(line) for line in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115, closed by close()
        self.board = SummaryWriter(str(workdir), purge_step=through_step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl."""
        line = {"step": step, **values}
        self._file.write(_dump(line))
        self.last.update(line)

    def write_board(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds scalars to the TensorBoard events."""
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def write_weights(self, step: int, layers: Mapping[str, Any], filters: Any) -> None:
        """Adds a histogram of each layer's non-zero weights and an image of filters [H, W, 3]."""
        for name, kernel in layers.items():
            stride = max(1, kernel.size // _HISTOGRAM_SIZE)
            weights = distributed.fetch(kernel.reshape(-1)[::stride])
            weights = weights[weights != 0]
            if weights.size:
                self.board.add_histogram(f"weights/{name}", weights, step)
        self.board.add_image("filters", filters, step, dataformats="HWC")

    def flush(self) -> None:
        """Returns once everything written is on disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self.board.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        self.board.close()


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
    """The lines of a run's metrics.jsonl; a last line that a kill tore is left out."""
    path = os.path.join(workdir, METRICS_FILE)
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("}\n")]


def column(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The steps and values of one metric, over the lines that have it."""
    have = [(line["step"], line[name]) for line in lines if name in line]
    steps, values = zip(*have, strict=True) if have else ((), ())
    return np.asarray(steps), np.asarray(values)


def write_atomically(path: str | os.PathLike[str], contents: str | bytes) -> None:
    """Replaces a file's contents: a kill leaves the old or the new, never a part."""
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        file.write(contents.encode() if isinstance(contents, str) else contents)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _dump(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
