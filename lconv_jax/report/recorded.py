"""The contents of a run directory for the report, and notes on missing or damaged parts."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis, data, models
from lconv_jax import config as config_lib
from lconv_jax.errors import ConfigError
from lconv_jax.host import json_files, places
from lconv_jax.rundir.checkpoint import CheckpointError, Checkpoints
from lconv_jax.rundir.directory import (
    CHECKPOINTS,
    CONFIG_FILE,
    SESSIONS_FILE,
    SUMMARY_FILE,
    check_is_run,
    read_config,
    read_diverged,
    read_summary,
)
from lconv_jax.rundir.facts import (
    CONFUSION_FILE,
    DATA_FILE,
    read_confusion,
    read_data,
    read_description,
)
from lconv_jax.rundir.metrics import METRICS_FILE, read_metrics

_SESSION = {"from": int, "to": int, "device": str, "versions": {str: str}}
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run as its directory has it.

    Attributes:
      label: what to call it on the page, different for each run of a page.
      directory: absolute path.
      config: every key of the configuration, by its dotted name.
      data_sha256: the digest of its data.
      changes: of the configuration, made when the run was continued.
      facts: data.json (see `facts.write_data`); None if there is none.
      sessions: of sessions.json or summary.json: steps, device and versions of each.
      summary: summary.json; None for a run that is not finished.
      diverged: why the run cannot go on, if it cannot.
      metrics: by name, the finite values by step.
      confusion: confusion.json; None if there is none.
      description: description.json, which `lconv_jax.describe` writes; None if there is none.
      step: of the checkpoint that `kernels` are of; 0 if there is none.
      kernels: the weights of each layer; the first one's inputs in the order of the images' pixels.
      image_shape: [*spatial, channels] of an example; None where nothing says it.
      notes: what is missing, a sentence each.
    """

    label: str
    directory: str
    config: dict[str, Any]
    data_sha256: str
    changes: list[Any]
    facts: dict[str, Any] | None
    sessions: list[dict[str, Any]]
    summary: dict[str, Any] | None
    diverged: str | None
    metrics: dict[str, dict[int, float]]
    confusion: dict[str, Any] | None
    description: dict[str, Any] | None
    step: int
    kernels: dict[str, NDArray[Any]]
    image_shape: tuple[int, ...] | None
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return self.summary is not None

    @property
    def last(self) -> dict[str, float]:
        """The last value of each metric."""
        return {name: values[max(values)] for name, values in self.metrics.items()}

    @property
    def last_step(self) -> int:
        """Of the metrics and the checkpoint, whichever is further on."""
        return max([self.step, *(max(values) for values in self.metrics.values())])

    @property
    def steps_per_epoch(self) -> int | None:
        examples = None
        if self.facts is not None:
            examples = self.facts["num_examples"].get("train")
        elif self.summary is not None and type(self.summary.get("num_examples")) is int:
            examples = self.summary["num_examples"]
        return max(1, examples // self.config["train.batch_size"]) if examples else None

    @property
    def first(self) -> NDArray[Any] | None:
        """The weights of the layer that sees the image."""
        return self.kernels.get(models.first_layer(self.kernels))


def read_all(directories: Sequence[str]) -> list[Recorded]:
    """Reads run directories; one that is given twice is read once.

    Raises:
      ConfigError: one is no run directory.
      StoredError: the configuration of one is damaged.
    """
    paths = list(dict.fromkeys(places.local(each, "RUN") for each in directories))
    for path in paths:
        if not os.path.isdir(path):
            raise ConfigError(f"{path} is no folder; give the --workdir of a run")
        check_is_run(path)
    return [read(path, label) for path, label in zip(paths, labels(paths), strict=True)]


def labels(paths: Sequence[str]) -> list[str]:
    """The shortest ends of different paths that tell each from the others."""
    parts = [path.strip(os.sep).split(os.sep) for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        found = ["/".join(each[-count:]) or os.sep for each in parts]
        if len(set(found)) == len(found):
            break
    return [os.fsencode(name).decode("utf-8", "replace") for name in found]


def read(directory: str, label: str) -> Recorded:
    """Reads one run directory (see `read_all`)."""
    notes: list[str] = []

    def or_note(function: Callable[[], _T], otherwise: _T) -> _T:
        try:
            return function()
        except (ValueError, OSError) as error:
            notes.append(str(error))
            return otherwise

    config = dict(config_lib.flatten(read_config(directory)))
    record = json_files.read(
        os.path.join(directory, CONFIG_FILE),
        {"data_sha256": str, "changes": list},
        "bring it back from a copy",
    )
    facts = or_note(lambda: _facts(directory), None)
    summary = or_note(lambda: read_summary(directory), None)
    if summary is None and not os.path.exists(os.path.join(directory, SUMMARY_FILE)):
        notes.append(
            f"There is no {SUMMARY_FILE}: the run is not finished. The numbers are "
            "from the metrics so far."
        )
    values = _columns(or_note(lambda: read_metrics(directory), []))
    if summary is not None:
        _check_end(values, summary["metrics"].get("step"), notes)
    elif not values:
        notes.append(f"{METRICS_FILE} has no line that can be read: there are no curves.")
    step, kernels = _newest(directory, notes)
    shape = None
    if kernels:
        shape, kernels = _as_images(config, facts, kernels, notes)
    description = or_note(lambda: read_description(directory), None)
    if description is not None and description["step"] < step:
        notes.append(
            f"The description length is of step {description['step']:,}, and the run has gone on "
            f"to step {step:,}: describe it again."
        )
    confusion = or_note(lambda: _confusion(directory), None)
    if confusion is None and summary is not None:
        notes.append(
            f"There is no {CONFUSION_FILE} that can be read: accuracy by class is not "
            "known. A run writes it at its last evaluation, of the splits that it evaluates."
        )
    return Recorded(
        label=label,
        directory=os.fsencode(directory).decode("utf-8", "replace"),
        config=config,
        data_sha256=record["data_sha256"],
        changes=record["changes"],
        facts=facts,
        sessions=or_note(lambda: _sessions(directory), []),
        summary=summary,
        diverged=or_note(lambda: read_diverged(directory), None),
        metrics=values,
        confusion=confusion,
        description=description,
        step=step,
        kernels=kernels,
        image_shape=shape,
        notes=tuple(notes),
    )


def _facts(directory: str) -> dict[str, Any] | None:
    facts = read_data(directory)
    if facts is not None:
        shape = facts["image_shape"]
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"{DATA_FILE}: {shape} is no shape of an example; delete it")
    return facts


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        for name, value in line.items():
            if type(value) in (int, float) and math.isfinite(value) and name != "step":
                found.setdefault(name, {})[line["step"]] = value
    return found


def _check_end(values: Mapping[str, Mapping[int, float]], end: Any, notes: list[str]) -> None:
    """Notes that metrics of a finished run do not reach its end."""
    last = max((max(column) for column in values.values()), default=0)
    if type(end) is int and last < end:
        notes.append(
            f"{METRICS_FILE} ends at step {last} of {end}: lines of it are missing, and so are "
            "the ends of the curves."
        )


def _newest(directory: str, notes: list[str]) -> tuple[int, dict[str, NDArray[Any]]]:
    """The newest checkpoint that reads back as it was written: its step and kernels."""
    checkpoints = Checkpoints(os.path.join(directory, CHECKPOINTS))
    there = checkpoints.steps()
    for step in reversed(there):
        try:
            kernels = models.kernels(checkpoints.arrays(step, ("params",))["params"])
        except CheckpointError as error:
            notes.append(str(error))
            continue
        if models.first_layer(kernels) in kernels:
            return step, {name: np.asarray(kernel) for name, kernel in kernels.items()}
        notes.append(f"The checkpoint of step {step} is of no network that this package makes.")
    if not there:
        notes.append("There is no checkpoint: weights, filters and locality are not known.")
    return 0, {}


def _as_images(
    config: Mapping[str, Any],
    facts: Mapping[str, Any] | None,
    kernels: dict[str, NDArray[Any]],
    notes: list[str],
) -> tuple[tuple[int, ...] | None, dict[str, NDArray[Any]]]:
    """The shape of an image, and the kernels with the first one's rows in the order of pixels."""
    name = models.first_layer(kernels)
    first = kernels[name]
    order = None
    if facts is not None:
        shape, order = tuple(facts["image_shape"]), facts.get("pixel_order")
    else:
        # Runs from before there was such a file: the data say their shape, if they are at hand.
        try:
            where = config["data.data_dir"] or None
            shape = data.load(config["data.name"], where).image_shape
        except (ValueError, OSError, ImportError) as error:
            notes.append(
                f"There is no {DATA_FILE}, which says the shape of the images, and the "
                f"data are not at hand ({error}): filters are not shown."
            )
            return None, kernels
    if first.ndim != 2:
        return shape, kernels
    if first.shape[0] != math.prod(shape):
        notes.append(
            f"The first layer has {first.shape[0]} inputs, and an example of shape {shape} has "
            f"{math.prod(shape)} values: filters are not shown."
        )
        return None, kernels
    if config["data.permute"]:
        pixels = list(range(math.prod(shape[:-1])))
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, pixels)):
            notes.append(
                f"The pixels are permuted, and no {DATA_FILE} says in which order: "
                "filters are not shown."
            )
            return None, kernels
        first = analysis.unpermuted_rows(first, np.asarray(order), shape)
    return shape, {**kernels, name: first}


def _confusion(directory: str) -> dict[str, Any] | None:
    found = read_confusion(directory)
    for split, counts in found["splits"].items() if found else ():
        if any(len(row) != 3 or min(row) < 0 for row in counts) or not counts:
            raise ValueError(
                f"{CONFUSION_FILE}: {split} has a row that is not [label, predicted "
                "class, examples]; delete the file"
            )
    return found


def _sessions(directory: str) -> list[dict[str, Any]]:
    path = os.path.join(directory, SESSIONS_FILE)
    if not os.path.exists(path):
        return []
    return json_files.read(path, [_SESSION], "the next checkpoint writes it anew")
