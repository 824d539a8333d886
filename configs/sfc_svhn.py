"""s-fc on SVHN with β-lasso, at the paper's size.

    python -m lconv_jax.data.prepare svhn_cropped
    python -m lconv_jax.main --config=configs/sfc_svhn.py --workdir=runs/sfc_svhn

SGD instead: --config=configs/sfc_svhn.py:sgd

Not measured by us. The paper has 94.07 % with β-lasso (β = 50)
and 91.80 % with SGD after 4000 epochs, 88.64 % with SGD after 400.
"""

from lconv_jax import config as config_lib


def get_config(optimizer: str = "beta_lasso"):
    return config_lib.paper_config("svhn_cropped", "s_fc", alpha=150, optimizer=optimizer)
