"""One mesh for one device or many: batches are split on "data", wide matrices on "model"."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

# Splitting a small matrix costs more in communication than it saves in memory.
MIN_SPLIT_SIZE = 2**16


def make_mesh(data: int = -1, model: int = 1) -> jax.sharding.Mesh:
    """A ("data", "model") mesh over the first data × model devices; data = −1 takes all.

    Raises:
      ValueError: if there are not that many devices, or they do not divide evenly.
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
    devices = jax.devices()[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), (AxisType.Auto,) * 2, devices=devices)


def leaf_spec(shape: tuple[int, ...], model: int) -> P:
    """The partition of one array: output units of a wide weight over "model", else replicated.

    It depends on the shape alone, so that an optimizer's moments lie where their weights do.
    """
    divides = model > 1 and len(shape) >= 2 and shape[-1] % model == 0
    if divides and math.prod(shape) >= MIN_SPLIT_SIZE:
        return P(*[None] * (len(shape) - 1), "model")
    return P()


def tree_sharding(mesh: jax.sharding.Mesh, tree: Any) -> Any:
    """A tree of `NamedSharding`, by `leaf_spec`, for a tree of arrays or shapes."""
    model = mesh.shape["model"]
    return jax.tree.map(lambda leaf: NamedSharding(mesh, leaf_spec(leaf.shape, model)), tree)


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
