"""Signs of life of a run: a bar in a terminal or a notebook, lines of text anywhere else.

All processes but the first are silent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich import console, progress

from lconv_jax.parallel import distributed
from lconv_jax.rundir import metrics

# (step, newest metrics, whether an evaluation is among them)
Show = Callable[[int, Mapping[str, Any], bool], None]
# Seconds of training after which the first estimate of the whole is made.
_ESTIMATED_AFTER = 2.0


class _Terminal:
    """A stream for a display; output to a terminal that is gone is dropped.

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
def make_progress(title: str, total_steps: int, steps_per_epoch: int) -> Iterator[Show]:
    """Says `title` on standard error; yields the function that says how far the run is.

    In a terminal, and in a notebook with ipywidgets, it draws a bar; elsewhere it writes lines.

    Args:
      title: what is trained on what.
      total_steps: of the run.
      steps_per_epoch: of the run.
    """
    stream: Any = _Terminal(sys.stderr)
    terminal = console.Console(file=stream)
    if not distributed.is_first():
        yield lambda step, last, evaluated: None
    elif terminal.is_terminal or (terminal.is_jupyter and importlib.util.find_spec("ipywidgets")):
        with _bar(terminal, title, total_steps, steps_per_epoch) as show:
            yield show
    else:
        yield _lines(stream, title, total_steps, steps_per_epoch)


@contextlib.contextmanager
def _bar(
    terminal: console.Console, title: str, total_steps: int, steps_per_epoch: int
) -> Iterator[Show]:
    columns = (
        progress.TextColumn("epoch {task.fields[epoch]:.0f}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[text]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("eta"),
        progress.TimeRemainingColumn(),
    )
    terminal.print(title, highlight=False)
    with progress.Progress(*columns, console=terminal) as bar:
        task = bar.add_task("", total=total_steps, epoch=0, text="compiling")

        def show(step: int, last: Mapping[str, Any], evaluated: bool) -> None:
            bar.update(task, completed=step, epoch=step / steps_per_epoch, text=_numbers(last))

        yield show


def _lines(stream: Any, title: str, total_steps: int, steps_per_epoch: int) -> Show:
    stream.write(f"{title}\n")
    stream.flush()
    # The clock starts with the first steps, which compilation delays.
    begun: tuple[float, int] | None = None
    estimated = False

    def show(step: int, last: Mapping[str, Any], evaluated: bool) -> None:
        nonlocal begun, estimated
        begun = begun or (time.monotonic(), step)
        seconds, done = time.monotonic() - begun[0], step - begun[1]
        left = f"{_duration(seconds / done * (total_steps - step))} to go" if done else ""
        text = ""
        if evaluated:
            epochs = f"{step // steps_per_epoch} of {total_steps // steps_per_epoch}"
            text = f"epoch {epochs}  {_numbers(last)}  {left if step < total_steps else ''}"
        elif not estimated and left and seconds > _ESTIMATED_AFTER:
            text = f"about {left}, by the first {done} steps"
        if text:
            estimated = True
            stream.write(f"{text.rstrip()}\n")
            stream.flush()

    return show


def _numbers(last: Mapping[str, Any]) -> str:
    text = f"loss {last['train/loss']:.3f}  density {last['sparsity/density']:.1%}"
    for split, name in metrics.PREFIXES.items():
        if f"{name}/accuracy" in last:
            text += f"  {split} {last[f'{name}/accuracy']:.2%}"
    return text


def _duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
