"""Training from Python: `train_and_evaluate(config, workdir)`, as `lconv_jax.main` calls it."""

from lconv_jax.training.loop import Stopped, TrainingError, train_and_evaluate

__all__ = ["Stopped", "TrainingError", "train_and_evaluate"]
