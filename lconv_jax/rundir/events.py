"""TensorBoard events, written by the thread that calls.

tensorboardX's own writer hands events to a thread through a queue: where that thread fails, on a
full disk say, the queue fills up and the program waits for ever.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from lconv_jax.host.files import free_name, naming


class EventWriter:
    """Appends to a new file of events in `directory`.

    TensorBoard takes events of earlier files from `purge_step` on for gone. Every method raises an
    OSError that names the file if it cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str], purge_step: int):
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._path = free_name(os.path.join(directory, name))
        with naming(self._path):
            self._records = RecordWriter(self._path)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, summary: Any) -> None:
        """Appends what a function of `tensorboardX.summary` returned."""
        self._write(step=step, summary=summary)

    def flush(self) -> None:
        """Returns once all events are on disk."""
        with naming(self._path):
            self._records.flush()

    def close(self) -> None:
        with naming(self._path):
            self._records.close()

    def _write(self, **fields: Any) -> None:
        with naming(self._path):
            self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
