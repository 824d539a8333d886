"""Learning convolutions from scratch with β-lasso, and pricing what was learned in bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lconv_jax.optim import (
    add_l1_subgradient,
    beta_lasso,
    elastic_net_threshold,
    expected_l0,
    group_soft_threshold,
    hard_concrete,
    hard_concrete_eval_params,
    hard_threshold,
    layer_labels,
    rescale_l1,
    reweighted_soft_threshold,
    soft_threshold,
    spred,
)

if TYPE_CHECKING:
    from lconv_jax.training.reading import load_run

__all__ = [
    "add_l1_subgradient",
    "beta_lasso",
    "elastic_net_threshold",
    "expected_l0",
    "group_soft_threshold",
    "hard_concrete",
    "hard_concrete_eval_params",
    "hard_threshold",
    "layer_labels",
    "load_run",
    "rescale_l1",
    "reweighted_soft_threshold",
    "soft_threshold",
    "spred",
]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: it needs data and models, and the transformations do not.
    if name == "load_run":
        from lconv_jax.training.reading import load_run

        return load_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
