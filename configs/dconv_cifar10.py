"""d-conv on CIFAR-10 with SGD, at the paper's size.

    python -m lconv_jax.data.prepare cifar10
    python -m lconv_jax.main --config=configs/dconv_cifar10.py --workdir=runs/dconv_cifar10

β-lasso instead: --config=configs/dconv_cifar10.py:beta_lasso

Not measured by us. The paper has 88.84 % with SGD after 400
epochs, 89.79 % after 4000.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "sgd"):
    return config_lib.paper_config("cifar10", "d_conv", alpha=15, optimizer=optimizer)
