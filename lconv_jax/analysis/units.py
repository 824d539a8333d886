"""Which units of a dense first layer are looked at, and how many at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# More units than this change the mean by less than its spread over shuffles.
MAX_UNITS = 4096
# Weights of a chunk of units: a megabyte in float64, so that caches hold it.
_CHUNK = 2**17


def check_kernel(kernel: Any, image_shape: tuple[int, ...]) -> NDArray[Any]:
    """The kernel as an array [inputs, units].

    Raises:
      ValueError: if its rows are not the inputs of `image_shape`.
    """
    weights = np.asarray(kernel)
    if weights.ndim != 2 or weights.shape[0] != math.prod(image_shape):
        raise ValueError(
            f"kernel of shape {weights.shape} is not a dense layer on inputs of shape "
            f"{image_shape}: it must have {math.prod(image_shape)} rows"
        )
    return weights


def check_weights(kernel: Any, image_shape: tuple[int, ...]) -> NDArray[Any]:
    """The kernel as an array [inputs, units], of weights to measure on a line or in a plane.

    Raises:
      ValueError: as `check_kernel`; or the shape has not one or two spatial axes; or a weight is
        NaN or infinite.
    """
    if len(image_shape) not in (2, 3):
        raise ValueError(
            "image_shape must be (H, W, C) for images or (L, C) for signals, "
            f"got {tuple(image_shape)}"
        )
    weights = check_kernel(kernel, image_shape)
    if not np.isfinite(weights).all():
        raise ValueError("kernel has weights that are NaN or infinite: leave their units out")
    return weights


def live_units(
    kernel: NDArray[Any], min_nonzeros: int, most: int, rng: np.random.Generator
) -> tuple[int, NDArray[np.int64]]:
    """The number of units with enough weights, and the indices of `most` of them, ascending.

    Args:
      kernel: [inputs, units].
      min_nonzeros: units with fewer weights are left out; so are units without any.
      most: if there are more, so many are drawn at random.
      rng: NumPy generator; not used if there are no more.
    """
    live = np.flatnonzero(np.count_nonzero(kernel, axis=0) >= max(1, min_nonzeros))
    if live.size <= most:
        return int(live.size), live
    return int(live.size), np.sort(rng.choice(live, most, False))


def chunks(kernel: NDArray[Any]) -> Iterator[slice]:
    """Slices of units, one after the other, of a bounded number of weights."""
    step = max(1, _CHUNK // max(1, kernel.shape[0]))
    for start in range(0, kernel.shape[1], step):
        yield slice(start, start + step)
