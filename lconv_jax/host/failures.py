"""What failed inside a library, in one line, and whether it may pass: a permission, a full disk.

What may pass is no damage: the same file may be read another time.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from lconv_jax.errors import first_line

_T = TypeVar("_T")
# What the operating system says of a part that was deleted or replaced.
_DAMAGE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# What it says of others; where a library raises these by itself they have no number.
_PASSING = (PermissionError, TimeoutError, InterruptedError, ConnectionError)
# TensorStore's errors are texts.
_STATUS = re.compile(
    r"PERMISSION_DENIED|RESOURCE_EXHAUSTED|UNAVAILABLE|DEADLINE_EXCEEDED|UNAUTHENTICATED"
)
_ERRNO = re.compile(r"(?:os_error_code='|OS error )(\d+)")


class Failure(NamedTuple):
    """Why a call failed: `passing`, if that is something that may pass, and as it was said."""

    passing: str | None
    text: str


def attempt(
    function: Callable[[], _T], own: type[Exception]
) -> tuple[_T, None] | tuple[None, Failure]:
    """The value of function() and None, or None and why it failed.

    Errors of the type `own` are raised. What Orbax prints of an error beside raising it, now or as
    its remains are collected, is not shown.
    """
    with _orbax_raises_only():
        try:
            return function(), None
        except own:
            raise
        except Exception as error:
            failure = Failure(passing(error), first_line(error))
        gc.collect()
    sys.unraisablehook = _but_for_closed_loops(sys.unraisablehook)
    return None, failure


def passing(error: BaseException) -> str | None:
    """Why an error, or one that led to it, may pass; None if nothing says that it may."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and not any(one is each for each in seen):
            seen.append(one)
            waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return next(filter(None, map(_passing_alone, seen)), None)


def _passing_alone(error: BaseException) -> str | None:
    number = _ERRNO.search(str(error))
    if number:
        error = OSError(int(number[1]), os.strerror(int(number[1])))
    if isinstance(error, OSError):
        found = error.errno is not None and not isinstance(error, _DAMAGE)
        return first_line(error) if found or isinstance(error, _PASSING) else None
    found = isinstance(error, MemoryError) or _STATUS.search(str(error)) is not None
    return first_line(error) if found else None


def unreadable(folder: str) -> str | None:
    """Why a file somewhere in a folder cannot be read now; None if all can, or are damaged."""

    def give_up(error: OSError) -> None:
        raise error

    try:
        for where, _, names in os.walk(folder, onerror=give_up):
            for name in names:
                path = os.path.join(where, name)
                if stat.S_ISREG(os.stat(path).st_mode):
                    with open(path, "rb") as file:
                        while file.read(2**20):
                            pass
    except OSError as error:
        return passing(error)
    return None


def say_no_more() -> None:
    """Lets no thread, hook or logger print anything for the rest of the program."""
    sys.excepthook, sys.unraisablehook = _say_nothing, _say_nothing
    threading.excepthook = _say_nothing
    logging.disable()


def _say_nothing(*_: object) -> None:
    pass


def _but_for_closed_loops(hook: Callable[[Any], object]) -> Callable[[Any], None]:
    """A hook for what TensorStore's threads, at work when a call failed, may meet after it."""

    def unraisablehook(found: Any) -> None:
        if str(found.exc_value) != "Event loop is closed":
            hook(found)

    return unraisablehook


@contextlib.contextmanager
def _orbax_raises_only() -> Iterator[None]:
    """Errors of Orbax's threads, which it raises, are not also printed.

    It logs them, leaves them to asyncio, which reports those that nobody asked for, and calls event
    loops that are closed, which ends in the interpreter's hook for what cannot be raised.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or (
            record.name != "asyncio" and "orbax" not in record.pathname
        )

    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    hook, sys.unraisablehook = sys.unraisablehook, _say_nothing
    for logger in loggers:
        logger.addFilter(is_news)
    try:
        with warnings.catch_warnings():  # of coroutines that nobody awaited
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(is_news)
