"""How a command that trains ends: with one line, printed last, and a status that tells."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax

from lconv_jax.errors import Stopped, TrainingError, first_line
from lconv_jax.host import failures
from lconv_jax.parallel import distributed
from lconv_jax.terminal.commands import is_out_of_memory


@contextlib.contextmanager
def run_errors_in_a_line() -> Iterator[None]:
    """Ends the program with one line for what a user can mend, and with a status that tells.

    Ctrl-C ends it at once, where it does not stop a run that saves its state first, and nothing is
    printed after that line.
    """
    kept = "what was saved is kept; when {}, the same command continues the run"
    try:
        with _quiet_end():
            yield
    except Stopped as stopped:
        if distributed.is_first():
            print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signum)
    except KeyboardInterrupt:
        print("interrupted: what was saved is kept; the same command continues", file=sys.stderr)
        distributed.leave(128 + signal.SIGINT)
    except (ValueError, TrainingError) as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:
        raise  # nobody reads what is printed
    except OSError as error:
        remedy = kept.format("the disk or the path is mended")
        print(f"error: {error}\n{remedy}", file=sys.stderr)
        distributed.leave(1)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if is_out_of_memory(error):
            print(
                f"error: there is not enough memory ({first_line(error)})\n"
                f"{kept.format('there is more')}; or lower config.model.alpha or "
                "config.train.batch_size, in another --workdir",
                file=sys.stderr,
            )
        elif distributed.is_lost(error):
            print(
                f"error: another process is gone ({first_line(error)})\nwhat was saved "
                "is kept; the same commands, for all processes, continue the run",
                file=sys.stderr,
            )
        else:
            raise
        distributed.leave(1)


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """Ctrl-C and the end of the program print no more than is meant to be printed."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        # An exception would come up anywhere: in a callback that ignores it, or among threads that
        # go on writing. A run is safe from being killed at any moment.
        before = signal.signal(signal.SIGINT, _quit)
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, before)
        atexit.register(failures.say_no_more)


def _quit(signum: int, frame: Any) -> None:
    show_cursor = b"\n\x1b[?25h" if os.isatty(2) else b""
    os.write(
        2,
        show_cursor + b"interrupted: what was saved is kept; the same command continues the run\n",
    )
    os._exit(128 + signum)
