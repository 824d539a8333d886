"""Learning convolutions from scratch with β-lasso, and pricing what was learned in bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lconv_jax.optim import (
    NM,
    Blocks,
    Units,
    add_l1_subgradient,
    apply_masks,
    beta_lasso,
    elastic_net_threshold,
    expected_l0,
    fixed_masks,
    group_soft_threshold,
    hard_concrete,
    hard_concrete_eval_params,
    hard_threshold,
    layer_densities,
    layer_labels,
    lottery_ticket,
    magnitude_pruning,
    masks_of,
    random_masks,
    rescale_l1,
    reweighted_soft_threshold,
    rigl,
    saliency_pruning,
    snip,
    soft_threshold,
    sparse_evolution,
    spred,
)

if TYPE_CHECKING:
    from lconv_jax.saved_run import load_run

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
    "layer_densities",
    "layer_labels",
    "load_run",
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
]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: it needs data and models, and the transformations do not.
    if name == "load_run":
        from lconv_jax.saved_run import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
