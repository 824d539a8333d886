"""Signals to stop, kept for a loop that acts on them when it can."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

# What people, terminals, schedulers and limits send: each ends a process that does not hear it.
STOPPING = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
)


@contextlib.contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """A list that signals to stop are added to, for the loop to act on between two calls.

    Those are `STOPPING`, as far as they are not ignored, as SIGHUP is under nohup. A second SIGINT
    does at once what it did before. Within another such block it is that one's list. Off the main
    thread signals are left as they are.
    """
    outer = [getattr(signal.getsignal(each), "received", None) for each in STOPPING]
    if found := [each for each in outer if each is not None]:
        yield found[0]
        return
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: Any) -> None:
        received.append(signum)
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    note.received = received  # type: ignore[attr-defined]
    before = {
        number: handler
        for number in STOPPING
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
