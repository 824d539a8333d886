"""ResNet-18 on CIFAR-10 with β-lasso, at the paper's size.

    python -m lconv_jax.data.prepare cifar10
    python -m lconv_jax.main --config=configs/resnet18_cifar10.py --workdir=runs/resnet18_cifar10

SGD instead: --config=configs/resnet18_cifar10.py:sgd

Not measured by us. The paper has a figure and no table; β-lasso
at or above SGD at every kernel size (Figure 5).
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    return config_lib.paper_config("cifar10", "resnet18", alpha=64, optimizer=optimizer)
