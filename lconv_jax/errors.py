"""What a user can mend: each is a ValueError whose message names the thing and the remedy."""


class ConfigError(ValueError):
    """A configuration that cannot be run; the message names the key and what it accepts."""


class StoredError(ValueError):
    """A file that a program wrote and that does not read back; the message names file and line."""
