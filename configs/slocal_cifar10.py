"""s-local on CIFAR-10 with SGD, at the paper's size.

    python -m lconv_jax.data.prepare cifar10
    python -m lconv_jax.main --config=configs/slocal_cifar10.py --workdir=runs/slocal_cifar10

β-lasso instead: --config=configs/slocal_cifar10.py:beta_lasso

Not measured by us. The paper has 81.52 % with SGD after 400
epochs, 85.86 % after 4000.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "sgd"):
    return config_lib.paper_config("cifar10", "s_local", alpha=150, optimizer=optimizer)
