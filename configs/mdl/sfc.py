"""s_fc under strong β-lasso on all 60 000 images of Fashion-MNIST: a network worth describing.

    python -m lconv_jax.main --config=configs/mdl/sfc.py --workdir=runs/mdl/sfc
    python -m lconv_jax.shorten runs/mdl/sfc
    python -m lconv_jax.describe runs/mdl/sfc

The images are looked for as docs/data.md says; --config.data.data_dir=FOLDER names another place.
"""

from lconv_jax import config as config_lib


def get_config():
    config = config_lib.base_config()
    config.data.name = "fashion_mnist"
    config.model.name = "s_fc"
    config.model.alpha = 8
    config.optimizer.learning_rate = 1.0
    config.optimizer.l1.conv = 1e-3
    config.optimizer.l1.fc = 1e-3
    config.optimizer.beta = 10.0
    config.train.epochs = 40
    config.log.every_steps = 10
    config.log.eval_every_epochs = 4
    return config
