"""Transformations for optax that make weights exactly zero while they learn."""

from lconv_jax.optim.beta_lasso import beta_lasso, lasso
from lconv_jax.optim.hard_concrete import expected_l0, hard_concrete, hard_concrete_eval_params
from lconv_jax.optim.labels import layer_labels
from lconv_jax.optim.proximal import (
    elastic_net_threshold,
    group_soft_threshold,
    reweighted_soft_threshold,
)
from lconv_jax.optim.rescale import rescale_l1
from lconv_jax.optim.spred import spred
from lconv_jax.optim.subgradient import add_l1_subgradient
from lconv_jax.optim.threshold import hard_threshold, soft_threshold

__all__ = [
    "add_l1_subgradient",
    "beta_lasso",
    "elastic_net_threshold",
    "expected_l0",
    "group_soft_threshold",
    "hard_concrete",
    "hard_concrete_eval_params",
    "hard_threshold",
    "lasso",
    "layer_labels",
    "rescale_l1",
    "reweighted_soft_threshold",
    "soft_threshold",
    "spred",
]
