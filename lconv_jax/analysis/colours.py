"""The colours that weights are drawn in, as fractions of red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of the largest positive and negative weight.
RED, BLUE = np.array([0.70, 0.02, 0.15]), np.array([0.02, 0.19, 0.58])


def diverging(values: NDArray[Any]) -> NDArray[Any]:
    """Values in −1 … 1, [..., 1], as RGB: blue is −1, white 0, red 1."""
    return 1 - np.abs(values) * (1 - np.where(values > 0, RED, BLUE))


def tints(values: NDArray[Any]) -> NDArray[Any]:
    """Weights in −1 … 1 of the colours red, green and blue, [..., 3], as RGB: grey is 0."""
    return 0.5 + 0.5 * values
