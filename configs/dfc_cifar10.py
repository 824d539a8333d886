"""d-fc on CIFAR-10 with β-lasso, at the paper's size.

    python -m lconv_jax.data.prepare cifar10
    python -m lconv_jax.main --config=configs/dfc_cifar10.py --workdir=runs/dfc_cifar10

SGD instead: --config=configs/dfc_cifar10.py:sgd

Not measured by us. The paper has 64.78 % with SGD after 400
epochs, 63.62 % after 4000.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    return config_lib.paper_config("cifar10", "d_fc", alpha=15, optimizer=optimizer)
