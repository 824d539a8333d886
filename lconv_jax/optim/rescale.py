"""β-lasso's strengths for a schedule of another length."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lconv_jax.optim.strengths import Values, check_values, is_scheduled, map_values


def rescale_l1(
    l1: float | Mapping[str, float], beta: float, *, lr_sum: float, reference_lr_sum: float
) -> tuple[Any, float]:
    """Converts λ and β that were chosen for one schedule to a schedule of another length.

        λ ← λ r,  β ← β / r,  r = Σ ηₖ of the reference / Σ ηₖ

    This keeps the shrink budget λ Σ ηₖ, the distance by which the penalty
    alone moves a weight over a whole run, and the threshold βλ. Both are lengths
    on the scale of the weights and their initial values. It does not keep the strength of the
    penalty against the loss: λ against |∇f| changes by r, and a weight is worth
    keeping only if its gradient exceeds λ. So a much shorter run is sparser than the reference, or
    less accurate. A larger learning rate keeps the budget without that bias.

    Args:
      l1: λ for the reference, a number or a mapping from labels to numbers.
      beta: β for the reference.
      lr_sum: sum of the learning rates over all steps of the run.
      reference_lr_sum: the same of the reference.

    Returns:
      λ, as a number or mapping, and β for the run.

    Raises:
      ValueError: if λ or β is negative, not finite or a schedule, or a sum is not positive.

    Examples:
      4000 epochs of 98 steps with a cosine schedule from 0.1, on average 0.05, shortened to 400:

      >>> from lconv_jax import rescale_l1
      >>> l1, beta = rescale_l1(
      ...     {"conv": 2e-5, "fc": 1e-6}, 50.0, lr_sum=1960.0, reference_lr_sum=19600.0
      ... )
      >>> {label: round(value, 9) for label, value in l1.items()}, beta
      ({'conv': 0.0002, 'fc': 1e-05}, 5.0)
    """
    strengths: dict[str, Values] = {"l1": l1, "beta": beta}
    for name, values in strengths.items():
        check_values(name, values)
        if is_scheduled(values):
            raise ValueError(f"{name} must be a number here, got a schedule: {values}")
    for name, total in (("lr_sum", lr_sum), ("reference_lr_sum", reference_lr_sum)):
        if not (math.isfinite(total) and total > 0):
            raise ValueError(f"{name} must be a finite number above zero, got {total}")
    ratio = reference_lr_sum / lr_sum
    return map_values(lambda value: value * ratio, l1), beta / ratio
