"""What all commands say and ask: flags, errors in one line, tables, progress."""
