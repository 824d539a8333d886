"""Figures that are drawn to files, without a screen."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lconv_jax import analysis


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Any, Any]:
    """A figure and its axes, as matplotlib's `subplots` has them.

    Args:
      rows, columns: of axes; one of both is a single object, no array, unless squeeze=False.
      size: width and height in inches.
      options: of `Figure.subplots`, such as sharex, height_ratios, squeeze.
    """
    from matplotlib.figure import Figure  # here, so that a table loads no plotting

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def save(figure: Any, path: str, dpi: int = 110) -> None:
    """Writes a figure as a PNG, in a folder that is made if need be."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    figure.savefig(path, dpi=dpi)


def fields(filters: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`analysis.picture` of filters [units, height, width, channels], larger, for print."""
    if filters.shape[1] == 1:
        return analysis.draw_signals(filters, scale=2)
    return analysis.tile(filters, scale=max(1, 128 // max(filters.shape[1:3])))
