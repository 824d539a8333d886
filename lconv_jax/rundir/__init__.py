"""The run directory: configuration, metrics, checkpoints, sessions, and who may write them."""
