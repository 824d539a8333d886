"""The records of a run: metrics of each step, pictures of weights, the summary."""

from __future__ import annotations

import os
import time
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis, data, models
from lconv_jax import config as config_lib
from lconv_jax.errors import TrainingError
from lconv_jax.parallel import distributed
from lconv_jax.rundir import facts, metrics
from lconv_jax.rundir.session import Session
from lconv_jax.training import inputs
from lconv_jax.training.setup import Setup
from lconv_jax.training.state import TrainState

DIVERGED = (
    "Lower config.optimizer.learning_rate, or l1, weight_decay or data.noise where they are large; "
    "or check the data for extreme values; and start in another --workdir"
)
# Units of the first layer that pictures and histograms are made of.
_SHOWN_UNITS = 4096


def write_data(setup: Setup, directory: str) -> None:
    """Writes data.json of the run in a directory (see `facts.write_data`)."""
    order = inputs.pixel_order(setup.config, setup.dataset.image_shape)
    about = data.about(setup.dataset) | {"dtype": setup.dataset.train.images.dtype.name}
    facts.write_data(directory, about, order)


def write_steps(
    setup: Setup,
    fetched: dict[str, Any],
    step: int,
    count: int,
    session: Session,
) -> dict[str, Any]:
    """Writes the metrics of the `count` steps after `step`, and returns those of the last.

    Raises:
      TrainingError: if a loss or the state at the end is not finite.
    """
    plan, log, writer = setup.plan, setup.config.log, session.writer
    rows = {name: values[:count] for name, values in fetched.items() if name != "finite"}
    _check_finite(rows["train/loss"], bool(fetched["finite"]), step, session.saved)
    lines = _lines(setup, rows)
    for at, line in enumerate(lines, start=step + 1):
        if at % log.every_steps == 0 or at == plan.total_steps:
            writer.write(at, line)
    if (step + count) % plan.steps_per_epoch == 0:
        writer.write_board(step + count, lines[-1])
    return lines[-1]


def _lines(setup: Setup, rows: dict[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """One dictionary of metrics per step, with those computed from the counts of non-zeros."""
    kernels = models.kernels(setup.state_shapes.params)
    total = sum(kernel.size for kernel in kernels.values())
    counts = [rows[f"sparsity/{name}/nonzeros"].astype(np.int64) for name in kernels]
    nonzeros = np.sum(counts, axis=0)
    log = setup.config.log
    columns = rows | {"sparsity/density": nonzeros / total}
    columns |= metrics.description_estimate(
        nonzeros,
        1 - rows["train/accuracy"].astype(np.float64),
        total=total,
        num_examples=len(setup.dataset.train.labels),
        bits=log.bits_per_value,
        delta=log.delta,
    )
    return [
        {name: values[index].item() for name, values in columns.items()}
        for index in range(len(nonzeros))
    ]


def _check_finite(losses: NDArray[Any], finite: bool, step: int, saved: int) -> None:
    """Raises TrainingError, naming the first step at fault, unless all is finite."""
    wrong = np.flatnonzero(~np.isfinite(losses))
    if wrong.size == 0 and finite:
        return
    # Without a step whose loss shows it, it is the last one's update that went wrong, or BN
    # statistics that training does not read.
    at = step + (wrong[0] + 1 if wrong.size else len(losses))
    kept = f"the checkpoint of step {saved} is kept" if saved else "there is no checkpoint yet"
    raise TrainingError(
        f"the {'loss' if wrong.size else 'state'} is not finite at step {at}; nothing of it was "
        f"saved, {kept}. {DIVERGED}"
    )


def write_weights(
    setup: Setup, state: TrainState, writer: metrics.MetricsWriter, step: int
) -> None:
    """Adds histograms of the layers' weights and a picture of filters to the TensorBoard events."""
    kernels = models.kernels(state.params)
    filters = _first_filters(setup, kernels[models.first_layer(kernels)])
    writer.write_weights(step, kernels, analysis.picture(analysis.choose_filters(filters, 64)))


def _first_filters(setup: Setup, kernel: jax.Array) -> NDArray[np.float32]:
    """First-layer filters [units, H, W, C] as images, the permutation of pixels undone."""
    stride = -(-kernel.shape[-1] // _SHOWN_UNITS)
    weights = _unpermuted(setup, distributed.fetch(kernel[..., ::stride]))
    return analysis.first_layer_filters(weights, setup.dataset.image_shape)


def _unpermuted(setup: Setup, weights: NDArray[Any]) -> NDArray[Any]:
    """A dense first layer's weights with their rows in the order of the original pixels."""
    image_shape = setup.dataset.image_shape
    order = inputs.pixel_order(setup.config, image_shape)
    if order is None or weights.ndim != 2:
        return weights
    return analysis.unpermuted_rows(weights, order, image_shape)


def summarise(setup: Setup, state: TrainState, session: Session, started: float) -> dict[str, Any]:
    """Draws filters.png and returns the contents of summary.json; for `started` see `Run`."""
    kernels = models.kernels(state.params)
    first = kernels[models.first_layer(kernels)]
    filters = analysis.choose_filters(_first_filters(setup, first), 64)
    analysis.save_filters(filters, os.path.join(session.directory, "filters.png"))
    summary = {
        "metrics": dict(session.writer.last),
        "weights": {name: kernel.size for name, kernel in kernels.items()},
        "effective": setup.plan.effective,
        "num_examples": len(setup.dataset.train.labels),
        "config_sha256": config_lib.digest(setup.config),
        "data_sha256": data.digest(setup.dataset),
        "data": data.about(setup.dataset),
        "time/wall_seconds": time.monotonic() - started,
        "resumed_at_step": session.step,
        "sessions": session.history,
    }
    if setup.config.train.shrink != "none":
        summary["shrink"] = setup.config.train.shrink
    if first.ndim == 2:
        weights = _unpermuted(setup, distributed.fetch(first))
        image_shape = setup.dataset.image_shape
        found = [analysis.locality(weights, image_shape, min_nonzeros=least) for least in (1, 10)]
        summary["locality"] = [each._asdict() for each in found if each.units]
    return summary
