"""One mesh for one device or many: batches are split on "data", wide matrices on "model".

Along "model" a matrix is split by the units that it computes or by those that it reads, whichever
sends less: docs/devices.md counts the bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from lconv_jax import models

# Splitting a small matrix costs more in communication than it saves in memory.
MIN_SPLIT_SIZE = 2**16
# A matrix of logits is small beside those before it, but to split it all its inputs would be sent.
MIN_SPLIT_OUTPUTS = 128


def make_mesh(data: int = -1, model: int = 1) -> jax.sharding.Mesh:
    """A ("data", "model") mesh over the first data × model devices; data = −1 takes all.

    Raises:
      ValueError: if there are not that many devices, or they do not divide evenly; or if a
        process would have none of them.
    """
    available = jax.device_count()
    if data == -1:
        if available % model:
            raise ValueError(
                f"config.sharding.model = {model} does not divide the {available} devices"
            )
        data = available // model
    if data * model > available:
        raise ValueError(
            f"config.sharding asks for {data} × {model} devices; there are {available}"
        )
    if data * model < available and jax.process_count() > 1:
        raise ValueError(
            f"config.sharding asks for {data} × {model} of the {available} devices of "
            f"{jax.process_count()} processes; several processes must use all their devices. Set "
            "config.sharding.data to −1"
        )
    devices = jax.devices()[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), (AxisType.Auto,) * 2, devices=devices)


def kernel_specs(params: Any, model: int) -> dict[str, P]:
    """How each layer's kernel is split over `model` devices, by the names of `models.kernels`.

    A kernel of fewer than `MIN_SPLIT_SIZE` weights, a matrix of fewer than `MIN_SPLIT_OUTPUTS`
    columns, or one whose sides `model` does not divide, is on every device. Kernels of
    convolutions are split by output channels. Matrices are split by columns (the units they
    compute) or by rows (the units they read) in the way that sends the fewest numbers an example,
    forward and backward.
    """
    kernels = models.kernels(params)
    choices = [_choices(tuple(kernel.shape), model) for kernel in kernels.values()]
    shapes = [tuple(kernel.shape) for kernel in kernels.values()]
    best = min(itertools.product(*choices), key=lambda axes: numbers_sent(shapes, axes))
    return {
        name: P() if axis is None else P(*("model" if i == axis else None for i in range(rank)))
        for name, axis, rank in zip(kernels, best, map(len, shapes), strict=True)
    }


def _choices(shape: tuple[int, ...], model: int) -> list[int | None]:
    """The axes along which a kernel may be split; [None] if it is not to be."""
    if model == 1 or math.prod(shape) < MIN_SPLIT_SIZE:
        return [None]
    if len(shape) == 2 and shape[1] < MIN_SPLIT_OUTPUTS:
        return [None]
    axes = [1, 0] if len(shape) == 2 else [len(shape) - 1]
    return [axis for axis in axes if shape[axis] % model == 0] or [None]


def numbers_sent(shapes: Sequence[tuple[int, ...]], axes: Sequence[int | None]) -> int:
    """Numbers that each device sends an example, over (k − 1) / k, for matrices split over k.

    Gathering the parts of n numbers sends n, summing n numbers of which each device has a part
    2 · n (bandwidth-optimal algorithms). Layers that are no matrices count as if they were not
    split.

    Args:
      shapes: of the kernels, first layer to last; a matrix is (inputs, outputs).
      axes: 1 if a kernel is split by columns, 0 if by rows, None if it is not split.
    """
    sent, whole = 0, True  # whether each device has all inputs of the layer
    for layer, (shape, axis) in enumerate(zip(shapes, axes, strict=True)):
        if len(shape) != 2:
            whole = True
            continue
        inputs, outputs = shape
        if axis == 1:
            # Inputs are gathered; their gradient is a sum over the units of all devices.
            sent += (0 if whole else inputs) + (2 * inputs if layer else 0)
        elif axis == 0:
            # Outputs are sums over the inputs of all devices; gradients of inputs are gathered
            # where the layer before needs all of them.
            sent += 2 * outputs + (inputs if whole and layer else 0)
        elif not whole:
            sent += 2 * outputs
        whole = axis != 1
    return sent


def state_sharding(mesh: jax.sharding.Mesh, state: Any) -> Any:
    """A tree of `NamedSharding` for a training state, or one of its shapes.

    What belongs to a weight lies where the weight does, and what belongs to a unit (normalisation,
    its statistics, a bias) where its column does, in the parameters as in the optimizer's moments.
    """
    specs = kernel_specs(state.params, mesh.shape["model"])
    shapes = {name: kernel.shape for name, kernel in models.kernels(state.params).items()}

    def place(path: Any, leaf: Any) -> NamedSharding:
        keys = [entry for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        # An optimizer may hold several trees like the parameters, by name.
        found = (models.layer_of(keys[start:]) for start in range(len(keys) - 1))
        name = next((each for each in found if each in specs), "")
        spec = specs.get(name, P())
        if spec and leaf.shape == shapes[name]:
            return NamedSharding(mesh, spec)
        if spec and spec[-1] and leaf.shape == shapes[name][-1:]:
            return NamedSharding(mesh, P("model"))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, state)


def placement(shapes: Any) -> Any:
    """The sharding of each leaf of a tree of shapes or arrays."""
    return jax.tree.map(lambda leaf: leaf.sharding, shapes)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The leading axis is split over "data"."""
    return NamedSharding(mesh, P("data"))


def chunk_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Several batches: the second axis is split over "data"."""
    return NamedSharding(mesh, P(None, "data"))


def rows_of_process(
    processes_DxM: np.ndarray[Any, Any], batch_size: int, process_index: int
) -> np.ndarray[Any, Any]:
    """The rows of a batch that a process holds, ascending, when it is split over "data".

    Args:
      processes_DxM: the process of each device of the mesh.
      batch_size: a multiple of D.
      process_index: whose rows. Where "model" reaches over several processes, they share rows.
    """
    mine = (np.asarray(processes_DxM) == process_index).any(axis=1)
    return np.flatnonzero(np.repeat(mine, batch_size // len(mine)))


def local_rows(mesh: jax.sharding.Mesh, batch_size: int) -> np.ndarray[Any, Any]:
    """`rows_of_process` of this process."""
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    return rows_of_process(processes, batch_size, jax.process_index())
