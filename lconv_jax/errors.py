"""Errors that a user can mend: ValueErrors whose message names the thing and the remedy."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and what it accepts."""


class StoredError(ValueError):
    """A file that a program wrote and that does not read back; the message names file and line."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind if it says nothing."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
