"""Runs: what a configuration is made into, the compiled steps, and the host's loop around them."""
