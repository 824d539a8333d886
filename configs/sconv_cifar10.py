"""s-conv on CIFAR-10 with SGD, at the paper's size.

    python -m lconv_jax.data.prepare cifar10
    python -m lconv_jax.main --config=configs/sconv_cifar10.py --workdir=runs/sconv_cifar10

β-lasso instead: --config=configs/sconv_cifar10.py:beta_lasso

Not measured by us. The paper has 84.14 % with SGD after 400
epochs, 87.05 % after 4000.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "sgd"):
    return config_lib.paper_config("cifar10", "s_conv", alpha=150, optimizer=optimizer)
