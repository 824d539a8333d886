"""A run directory read back in Python: `lconv_jax.load_run(DIRECTORY)`.

Reading changes nothing in the directory, so that a run may be looked at while it trains.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from numpy.typing import ArrayLike, NDArray

from lconv_jax import analysis, data, models
from lconv_jax import config as config_lib
from lconv_jax.errors import ConfigError, DataError
from lconv_jax.host import places
from lconv_jax.parallel import sharding
from lconv_jax.rundir import metrics
from lconv_jax.rundir.checkpoint import Checkpoints
from lconv_jax.rundir.directory import (
    CHECKPOINTS,
    check_is_run,
    read_config,
    read_data_digest,
    read_summary,
)
from lconv_jax.training import inputs, programs
from lconv_jax.training.setup import Setup, prepare


class Series(NamedTuple):
    """A metric over a run: `values[i]` was logged at step `steps[i]`."""

    steps: NDArray[np.int64]
    values: NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SavedRun:
    """A run, finished or not. `load_run` makes it.

    Weights are read, and data are loaded, when something first asks for them. What follows needs no
    data: `config`, `summary`, `metrics`, `checkpoints`, `step` and `params`.

    Attributes:
      directory: absolute path of the run directory.
      config: the `ConfigDict` of the run.
      summary: the contents of summary.json; None while the run is not finished.
      metrics: a `Series` by name, as "train/loss"; docs/training.md lists the names.
      checkpoints: the steps of the checkpoints that there are, ascending.
    """

    directory: str
    config: Any
    summary: dict[str, Any] | None
    metrics: dict[str, Series]
    checkpoints: tuple[int, ...]
    _step: int | None = None
    _dataset: data.Dataset | None = None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "not finished"
        return f"<SavedRun {self.directory}: {state}, checkpoints {list(self.checkpoints)}>"

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return self.summary is not None

    @property
    def step(self) -> int:
        """The training step of the checkpoint that `params` and all that follows are of.

        Raises:
          ConfigError: there is no checkpoint yet.
        """
        if self._step is not None:
            return self._step
        if not self.checkpoints:
            raise ConfigError(
                f"{self.directory} has no checkpoint yet; let the run save one first "
                f"(every {self.config.checkpoint.every_epochs} epochs)"
            )
        return self.checkpoints[-1]

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """The parameters as NumPy arrays in nested dictionaries: params["conv1"]["kernel"].

        Raises:
          ConfigError: there is no checkpoint yet.
          CheckpointError: an OSError, if it is damaged or cannot be read; `load_run` has a `step`.
        """
        return self._stored["params"]

    @functools.cached_property
    def dataset(self) -> data.Dataset:
        """The data of the run, with its splits `train`, `validation` and `test`.

        Raises:
          DataError: they are not where the configuration says, or no longer the same.
        """
        return self._setup.dataset

    @property
    def model(self) -> nn.Module:
        """The Flax module: model.apply({"params": …, "batch_stats": …}, inputs)."""
        return self._setup.model

    @functools.cached_property
    def batch_stats(self) -> dict[str, Any]:
        """The statistics of batch normalisation that the run evaluates with, as NumPy arrays.

        They are not the running averages of training. They are pooled over training batches of the
        network as it is at `step`, so that the training data are read for them.
        """
        stored = self._stored["batch_stats"]
        return jax.device_get(
            programs.evaluation_stats(self._setup, self._on_devices, stored, self.step)
        )

    @functools.cached_property
    def filters(self) -> NDArray[np.float32]:
        """The weights of each unit of the first layer as images [units, height, width, channels].

        A signal's height is 1. Of a local layer each position's windows are there. Where the run
        permuted pixels, a dense layer's weights are at the pixels that they read; a convolution's
        are windows of permuted images.
        """
        kernel = self.params[models.first_layer(self.params)]["kernel"]
        image_shape = self.dataset.image_shape
        if self.permutation is not None and kernel.ndim == 2:
            kernel = analysis.unpermuted_rows(kernel, self.permutation, image_shape)
        return analysis.first_layer_filters(kernel, image_shape)

    @functools.cached_property
    def permutation(self) -> NDArray[np.int64] | None:
        """The pixel of a stored image that the model sees as its i-th; None without a permutation.

        Pixels are numbered in row-major order, and channels stay together.
        """
        return inputs.pixel_order(self.config, self.dataset.image_shape)

    def logits(self, images: ArrayLike) -> NDArray[np.float32]:
        """The outputs [N, classes] of the network in evaluation mode.

        Images are scaled, and permuted, as the run does it; they are not augmented.

        Args:
          images: [N, *image_shape], as the data set stores them: bytes (uint8) if its images are
            bytes, finite floating-point numbers else.

        Raises:
          DataError: the images are of another shape or type.
        """
        stored = self._checked(images)
        size = self.config.train.batch_size
        parts = [np.zeros((0, self.dataset.num_classes), np.float32)]
        for start in range(0, len(stored), size):
            batch = np.asarray(stored[start : start + size])
            if batch.dtype != np.uint8:
                batch = batch.astype(np.float32)
                if not np.isfinite(batch).all():
                    raise DataError("images hold NaN or infinity; give finite numbers")
            padding = [(0, size - len(batch))] + [(0, 0)] * (batch.ndim - 1)
            out = self._forward(np.pad(batch, padding))
            parts.append(np.asarray(out)[: len(batch)])
        return np.concatenate(parts)

    def predict(self, images: ArrayLike) -> NDArray[np.int64]:
        """The class of each image, [N]: the largest of `logits`, whose arguments it has."""
        return self.logits(images).argmax(1)

    @functools.cached_property
    def _stored(self) -> dict[str, Any]:
        checkpoints = Checkpoints(os.path.join(self.directory, CHECKPOINTS))
        return checkpoints.arrays(self.step, ("params", "batch_stats"))

    @functools.cached_property
    def _setup(self) -> Setup:
        setup = prepare(_on_devices_here(self.config), self._dataset, must_fit=False, begins=False)
        if data.digest(setup.dataset) != read_data_digest(self.directory):
            raise DataError(
                f"the data of {self.directory} ({setup.dataset.name}) have changed since its "
                "training. Bring the original data back, or pass them: load_run(…, dataset=…)"
            )
        return setup

    @functools.cached_property
    def _on_devices(self) -> Any:
        shapes = self._setup.state_shapes.params
        return jax.device_put(self.params, jax.tree.map(lambda leaf: leaf.sharding, shapes))

    @functools.cached_property
    def _forward(self) -> Callable[[Any], jax.Array]:
        model, preprocess = self.model, self._setup.inputs.preprocess
        by_batch = sharding.batch_sharding(self._setup.mesh)

        @jax.jit
        def forward(params: Any, stats: Any, images: jax.Array) -> Any:
            x = preprocess(jax.lax.with_sharding_constraint(images, by_batch))
            return model.apply({"params": params, "batch_stats": stats}, x, train=False)

        return functools.partial(forward, self._on_devices, self.batch_stats)

    def _checked(self, images: Any) -> Any:
        """The images, which may be a streamed set's, or a DataError."""
        stored = images if isinstance(images, data.Column) else np.asarray(images)
        shape, dtype = self.dataset.image_shape, self.dataset.train.images.dtype
        if len(stored.shape) != len(shape) + 1 or tuple(stored.shape[1:]) != shape:
            raise DataError(
                f"images of shape {tuple(stored.shape)}; this run takes [N, "
                f"{', '.join(map(str, shape))}], so that one image is images[None]"
            )
        fits = stored.dtype == np.uint8 if dtype == np.uint8 else _is_floating(stored.dtype)
        if not fits:
            wanted = "bytes (uint8), 0 … 255" if dtype == np.uint8 else "floating-point numbers"
            raise DataError(
                f"images of type {stored.dtype}; this run takes them as its data set stores them, "
                f"as {wanted}"
            )
        return stored


def load_run(
    directory: str | os.PathLike[str],
    *,
    step: int | None = None,
    dataset: data.Dataset | None = None,
) -> SavedRun:
    """Reads a run directory, of a run that is finished or not.

    Args:
      directory: the --workdir of a run.
      step: which checkpoint to take the weights from; the newest by default.
      dataset: the data of the run, where they are not loaded by name.

    Raises:
      ConfigError: there is no run, or no such checkpoint.
      StoredError, ValueError: a file of the directory is damaged; the message names it.

    Example::

        run = lconv_jax.load_run("runs/sfc")
        run.metrics["eval/accuracy"].values[-1]
        test = run.dataset.test
        (run.predict(test.images) == test.labels).mean()
    """
    path = places.local(directory, "the run directory")
    check_is_run(path)
    steps_there = tuple(Checkpoints(os.path.join(path, CHECKPOINTS)).steps())
    if step is not None and step not in steps_there:
        there = ", ".join(map(str, steps_there)) or "none"
        raise ConfigError(
            f"step = {step!r}: {path} has no checkpoint of that step; there are {there}"
        )
    return SavedRun(
        directory=path,
        config=read_config(path),
        summary=read_summary(path),
        metrics=_series(metrics.read_metrics(path)),
        checkpoints=steps_there,
        _step=step,
        _dataset=dataset,
    )


def _series(lines: Iterable[dict[str, Any]]) -> dict[str, Series]:
    columns: dict[str, tuple[list[int], list[Any]]] = {}
    for line in lines:
        for name in line.keys() - {"step"}:
            at, values = columns.setdefault(name, ([], []))
            at.append(line["step"])
            values.append(line[name])
    return {
        name: Series(np.asarray(columns[name][0], np.int64), np.asarray(columns[name][1]))
        for name in sorted(columns)
    }


def _is_floating(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _on_devices_here(config: Any) -> Any:
    """The configuration, for one device if the devices of the run are not available."""
    try:
        mesh = sharding.make_mesh(config.sharding.data, config.sharding.model)
        fits = config.train.batch_size % mesh.shape["data"] == 0
    except ValueError:
        fits = False
    one = {} if fits else {"sharding.data": 1, "sharding.model": 1}
    return config_lib.unflatten(dict(config_lib.flatten(config)) | one)
