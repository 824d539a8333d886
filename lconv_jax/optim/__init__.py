"""Transformations for optax that make weights exactly zero while they learn."""

from lconv_jax.optim.beta_lasso import beta_lasso, lasso
from lconv_jax.optim.labels import layer_labels
from lconv_jax.optim.rescale import rescale_l1
from lconv_jax.optim.subgradient import add_l1_subgradient
from lconv_jax.optim.threshold import hard_threshold, soft_threshold

__all__ = [
    "add_l1_subgradient",
    "beta_lasso",
    "hard_threshold",
    "lasso",
    "layer_labels",
    "rescale_l1",
    "soft_threshold",
]
