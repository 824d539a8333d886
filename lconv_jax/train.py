"""Training from Python: `train_and_evaluate(config, workdir)`, as `lconv_jax.main` calls it."""

from lconv_jax.errors import Stopped, TrainingError
from lconv_jax.training.loop import train_and_evaluate

__all__ = ["Stopped", "TrainingError", "train_and_evaluate"]
