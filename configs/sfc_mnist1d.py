"""s_fc on MNIST-1D: 4 000 signals of 40 values, in ten classes.

    pip install mnist1d
    python -m lconv_jax.main --config=configs/sfc_mnist1d.py --workdir=runs/sfc_mnist1d

SGD instead: --config=configs/sfc_mnist1d.py:sgd

On two cores of an AMD EPYC that did other work: 15 to 17 seconds; five seeds: test accuracy
91.9 % ± 0.4 % at 12 % density, SGD 92.9 % ± 0.6 %. Without shifts, --config.data.crop=0:
85.4 % ± 1.2 %, and SGD, with weight decay 0.01, 77.0 % ± 0.7 %.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    config = config_lib.base_config()
    config.data.name = "mnist1d"
    config.data.crop = 8
    config.model.name = "s_fc"
    config.model.alpha = 8
    config.optimizer.name = optimizer
    if optimizer == "sgd":
        config.optimizer.learning_rate = 0.3
        config.optimizer.momentum = 0.9
        config.optimizer.weight_decay = 0.001
    else:
        config.optimizer.learning_rate = 1.0
        config.optimizer.l1.conv = 1e-3
        config.optimizer.l1.fc = 5e-4
        config.optimizer.beta = 10.0
    config.train.batch_size = 256
    config.train.epochs = 250
    config.log.eval_every_epochs = 50
    config.checkpoint.every_epochs = 50
    return config
