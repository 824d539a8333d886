"""The sources of data: a module each, and `registry`, which finds the one that a name means."""
