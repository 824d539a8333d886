"""Input and output of all commands: flags, errors in one line, tables, progress."""
