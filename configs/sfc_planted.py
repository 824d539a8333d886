"""s_fc on signals whose labels a hidden network gives: does it find the inputs that matter?

    python -m lconv_jax.main --config=configs/sfc_planted.py --workdir=runs/sfc_planted

SGD instead: --config=configs/sfc_planted.py:sgd
Another teacher: --config.data.name=planted:kind=sparse,correlation=3

On two cores of an AMD EPYC that did other work: 10 to 21 seconds, test accuracy 100.0 % at 0.2 %
density with two teachers; SGD 99.5 %.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    config = config_lib.base_config()
    config.data.name = "planted"
    config.model.name = "s_fc"
    config.model.alpha = 8
    config.optimizer.name = optimizer
    if optimizer == "sgd":
        config.optimizer.learning_rate = 0.1
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 0.1
    else:
        config.optimizer.learning_rate = 1.0
        config.optimizer.l1.conv = 2e-3
        config.optimizer.l1.fc = 1e-3
        config.optimizer.beta = 10.0
    config.train.epochs = 100
    config.log.eval_every_epochs = 50
    config.checkpoint.every_epochs = 50
    return config
