"""Transformations for optax that make weights exactly zero while they learn."""

from lconv_jax.optim.beta_lasso import beta_lasso, lasso
from lconv_jax.optim.densities import layer_densities
from lconv_jax.optim.growing import rigl, sparse_evolution
from lconv_jax.optim.hard_concrete import expected_l0, hard_concrete, hard_concrete_eval_params
from lconv_jax.optim.labels import layer_labels
from lconv_jax.optim.masks import apply_masks, fixed_masks, masks_of, random_masks
from lconv_jax.optim.proximal import (
    elastic_net_threshold,
    group_soft_threshold,
    reweighted_soft_threshold,
)
from lconv_jax.optim.pruning import lottery_ticket, magnitude_pruning, saliency_pruning, snip
from lconv_jax.optim.rescale import rescale_l1
from lconv_jax.optim.spred import spred
from lconv_jax.optim.structures import NM, Blocks, Units
from lconv_jax.optim.subgradient import add_l1_subgradient
from lconv_jax.optim.threshold import hard_threshold, soft_threshold
from lconv_jax.optim.top_k import top_k_mask

__all__ = [
    "NM",
    "Blocks",
    "Units",
    "add_l1_subgradient",
    "apply_masks",
    "beta_lasso",
    "elastic_net_threshold",
    "expected_l0",
    "fixed_masks",
    "group_soft_threshold",
    "hard_concrete",
    "hard_concrete_eval_params",
    "hard_threshold",
    "lasso",
    "layer_densities",
    "layer_labels",
    "lottery_ticket",
    "magnitude_pruning",
    "masks_of",
    "random_masks",
    "rescale_l1",
    "reweighted_soft_threshold",
    "rigl",
    "saliency_pruning",
    "snip",
    "soft_threshold",
    "sparse_evolution",
    "spred",
    "top_k_mask",
]
