"""A figure to draw on, without a screen."""

from __future__ import annotations

from typing import Any


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """matplotlib's `subplots`, of a size in inches, for files."""
    import matplotlib  # here, so that a table loads no plotting

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=size, layout="constrained")
