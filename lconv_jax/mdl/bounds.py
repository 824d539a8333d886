"""Bounds on the test error as functions of numbers: a training error and a code length.

Code lengths are in bits throughout (base-2 logarithms); δ enters through a natural logarithm.
All functions broadcast over NumPy arrays and compute in float64.

References:
  Shalev-Shwartz and Ben-David, *Understanding Machine Learning*, 2014, Theorem 7.7.
  Neyshabur, *Towards Learning Convolutions from Scratch*, NeurIPS 2020, Theorems 1 and 2.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def occam_bound(
    sample_loss: ArrayLike, bits: ArrayLike, num_examples: int, delta: float = 0.05
) -> Float:
    """The error that holds with probability 1 − δ for every hypothesis of a prefix-free language.

    L_D ≤ L_S + sqrt((|d| + ln(2/δ)) / (2m)), Theorem 7.7 of *Understanding Machine Learning*.
    The language must be fixed before the data are seen.

    Args:
      sample_loss: L_S, the mean loss on the m examples, in [0, 1].
      bits: |d|, the length of the hypothesis's description, in bits.
      num_examples: m, the number of independent examples that L_S averages over.
      delta: probability that the bound fails.

    Returns:
      The bound, float64, of the shape that the arguments broadcast to. It may exceed 1.

    Raises:
      ValueError: for a loss outside [0, 1], negative bits, m < 1 or δ outside (0, 1).
    """
    loss, length = np.asarray(sample_loss, np.float64), np.asarray(bits, np.float64)
    _require(bool(np.all((loss >= 0) & (loss <= 1))), "sample_loss", sample_loss, "in [0, 1]")
    _require(bool(np.all(length >= 0)), "bits", bits, "≥ 0")
    _require(num_examples >= 1, "num_examples", num_examples, "≥ 1")
    _require(0 < delta < 1, "delta", delta, "in (0, 1)")
    return np.asarray(loss + np.sqrt((length + np.log(2 / delta)) / (2 * num_examples)))


def theorem2_bits(
    nonzeros: ArrayLike, distinct: ArrayLike, total: int, bits_per_value: float
) -> Float:
    """The code length of Theorem 2 of Neyshabur 2020, in bits.

    Weights that take k distinct values (zero among them) of b bits each, ‖w‖₀ of n of them not
    zero, take k·b bits for the values and |d(g)| ≤ ‖w‖₀ log₂(k·n) + 2 log₂ n bits for which
    weight takes which. The theorem is uniform over k through a union bound, so its bound is
    `occam_bound(loss, theorem2_bits(...), m, delta / n)`.

    Args:
      nonzeros: ‖w‖₀.
      distinct: k, the number of distinct values.
      total: n, the number of weights.
      bits_per_value: b.

    Raises:
      ValueError: unless 0 ≤ nonzeros ≤ total, 1 ≤ distinct ≤ nonzeros + 1, total ≥ 1 and b > 0.
    """
    count, values = np.asarray(nonzeros, np.float64), np.asarray(distinct, np.float64)
    _require(total >= 1, "total", total, "≥ 1")
    _require(bits_per_value > 0, "bits_per_value", bits_per_value, "> 0")
    _require(bool(np.all((count >= 0) & (count <= total))), "nonzeros", nonzeros, "in [0, total]")
    _require(
        bool(np.all((values >= 1) & (values <= count + 1))),
        "distinct",
        distinct,
        "between 1 and nonzeros + 1",
    )
    which = count * np.log2(values * total) + 2 * np.log2(total)
    return np.asarray(values * bits_per_value + which)


def _require(holds: bool, name: str, got: object, accepts: str) -> None:
    if not holds:
        raise ValueError(f"{name} = {got!r} must be {accepts}")
