"""Floating point operations of inference and of training, dense and sparse.

A multiplication and its addition count as two. Only products of weights are counted, as is usual:
not biases, normalisation or activations. The rules for training are those of Evci et al., "Rigging
the Lottery", ICML 2020, Section 4 and Appendix H.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def inference_flops(uses: Mapping[str, int], weights: Mapping[str, Any]) -> Any:
    """Of one example: 2 · uses · weights, summed over layers.

    Args:
      uses: by layer, how often a weight is used (see `models.count_uses`).
      weights: by layer, the number of weights that are not zero, or of all weights; numbers, or
        arrays of one shape, such as [steps], which the result then has.
    """
    return sum(2 * uses[layer] * np.asarray(count, np.float64) for layer, count in weights.items())


def training_flops(
    uses: Mapping[str, int],
    sizes: Mapping[str, int],
    nonzeros: Mapping[str, ArrayLike],
    *,
    batch_size: int,
    dense_gradients: ArrayLike = False,
    dense_forward: ArrayLike = False,
    per_weight: float = 0.0,
) -> float:
    """Of all steps of a run, if zeros cost nothing wherever the method does not need them.

    With f_S the sparse and f_D the dense operations of a forward pass, a step takes 3 f_S: forward,
    gradients of the inputs and gradients of the weights. A step that needs the gradients of all
    weights takes 2 f_S + f_D, and one whose forward pass is dense takes 3 f_D.

    Args:
      uses: by layer, as in `inference_flops`.
      sizes: by layer, the number of all weights.
      nonzeros: by layer, [steps], the number of weights that are not zero during a step.
      batch_size: examples in a step.
      dense_gradients: bool [steps] or one for all, steps that need the gradients of all weights.
      dense_forward: the same, steps in which all weights take part.
      per_weight: operations of the update, for each of all weights, in a step.
    """
    sparse = np.atleast_1d(inference_flops(uses, nonzeros))
    dense = float(inference_flops(uses, sizes))
    step = np.where(dense_gradients, 2 * sparse + dense, 3 * sparse)
    step = np.where(dense_forward, 3 * dense, step)
    return float(step.sum() * batch_size + len(sparse) * per_weight * sum(sizes.values()))
