"""Errors with a message for the user: the fault, the state that is kept, and the remedy.

Errors that a user can correct before a run begins are ValueErrors.
"""

import signal


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and the accepted values."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file or key, and the remedy."""


class StoredError(ValueError):
    """A file that a program wrote and that does not read back; the message names file and line."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message names the state that is kept, and the remedy."""


class Stopped(Exception):  # noqa: N818, an order to stop is not an error
    """The run was told to stop, and saved its state first."""

    def __init__(self, signum: int, step: int):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved at step {step}; the same command continues the run")
        self.signum = signum


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type without a message."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
