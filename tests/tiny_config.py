"""A run of a few seconds on scikit-learn's digits: `--config=tests/tiny_config.py`."""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    config = config_lib.base_config()
    config.data.name = "digits"
    config.data.crop = 1
    config.model.alpha = 4
    config.optimizer.name = optimizer
    config.optimizer.learning_rate = 0.5
    config.optimizer.momentum = 0.5
    config.optimizer.l1.conv = 4e-3
    config.optimizer.l1.fc = 2e-3
    config.optimizer.beta = 10.0
    config.train.epochs = 12
    config.train.batch_size = 128
    config.log.eval_every_epochs = 4
    config.checkpoint.every_epochs = 2
    return config
