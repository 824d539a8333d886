"""Tables and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def markdown(head: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table of headings and rows of cells, each cell as `str` has it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def rounded_up(bound: float) -> float:
    """A bound with four digits, the last one rounded up, so that the bound that is shown holds."""
    return math.ceil(bound * 1e4) / 1e4
