"""Runs: from a configuration to compiled steps, and the host's loop around them."""
