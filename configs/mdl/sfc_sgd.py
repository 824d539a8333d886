"""s_fc under SGD, dense, on all 60 000 images of Fashion-MNIST, to be pruned and described.

    python -m lconv_jax.main --config=configs/mdl/sfc_sgd.py --workdir=runs/mdl/sfc_sgd
    python -m lconv_jax.shorten runs/mdl/sfc_sgd
    python -m lconv_jax.describe runs/mdl/sfc_sgd

The images are looked for as docs/data.md says; --config.data.data_dir=FOLDER names another place.
"""

from lconv_jax import config as config_lib


def get_config():
    config = config_lib.base_config()
    config.data.name = "fashion_mnist"
    config.model.name = "s_fc"
    config.model.alpha = 8
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.train.epochs = 15
    config.log.every_steps = 10
    config.log.eval_every_epochs = 5
    return config
