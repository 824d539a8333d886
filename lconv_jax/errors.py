"""Errors with a message for the user: what is wrong, what is kept, and the remedy.

What a user can mend before a run begins is a ValueError.
"""

import signal


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and what it accepts."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file or key, and what to do."""


class StoredError(ValueError):
    """A file that a program wrote and that does not read back; the message names file and line."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says what was kept and what to do."""


class Stopped(Exception):  # noqa: N818, an order to stop is not an error
    """The run was told to stop, and saved its state first."""

    def __init__(self, signum: int, step: int):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved at step {step}; the same command continues the run")
        self.signum = signum


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
