"""d-local on CIFAR-10 with SGD, at the paper's size.

    python -m lconv_jax.data.prepare cifar10
    python -m lconv_jax.main --config=configs/dlocal_cifar10.py --workdir=runs/dlocal_cifar10

β-lasso instead: --config=configs/dlocal_cifar10.py:beta_lasso

Not measured by us. The paper has 86.13 % with SGD after 400
epochs, 86.07 % after 4000.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "sgd"):
    return config_lib.paper_config("cifar10", "d_local", alpha=15, optimizer=optimizer)
