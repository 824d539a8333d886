"""Learning convolutions from scratch with β-lasso, and pricing what was learned in bits."""

from lconv_jax.optim import (
    add_l1_subgradient,
    beta_lasso,
    hard_threshold,
    layer_labels,
    rescale_l1,
    soft_threshold,
)

__all__ = [
    "add_l1_subgradient",
    "beta_lasso",
    "hard_threshold",
    "layer_labels",
    "rescale_l1",
    "soft_threshold",
]
