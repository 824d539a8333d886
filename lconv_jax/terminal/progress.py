"""The live progress line; silent where there is no terminal, and on all processes but the first."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich import console, progress

from lconv_jax.parallel import distributed
from lconv_jax.rundir import metrics


class _Terminal:
    """A stream for a display, which drops what a terminal that is gone does not take.

    Otherwise the run would end with its terminal, or the thread that draws would, unseen.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


@contextlib.contextmanager
def make_progress(
    total_steps: int, steps_per_epoch: int
) -> Iterator[Callable[[int, Mapping[str, Any]], None]]:
    """A line on standard error; yields the function (step, last metrics) that brings it forward."""
    stream: Any = _Terminal(sys.stderr)
    terminal = console.Console(file=stream)
    hidden = not (terminal.is_terminal and distributed.is_first())
    columns = (
        progress.TextColumn("epoch {task.fields[epoch]:.0f}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[text]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("eta"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=terminal, disable=hidden) as bar:
        task = bar.add_task("", total=total_steps, epoch=0, text="compiling")

        def show(step: int, last: Mapping[str, Any]) -> None:
            text = f"loss {last['train/loss']:.3f}  density {last['sparsity/density']:.1%}"
            for split, name in metrics.PREFIXES.items():
                if f"{name}/accuracy" in last:
                    text += f"  {split} {last[f'{name}/accuracy']:.2%}"
            bar.update(task, completed=step, epoch=step / steps_per_epoch, text=text)

        yield show
