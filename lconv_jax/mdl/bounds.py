"""Bounds on the test error as functions of numbers: a training error and a code length.

Code lengths are in bits throughout (base-2 logarithms); δ enters through a natural logarithm, in
nats. All functions broadcast over NumPy arrays of losses and lengths and compute in float64.

Each bound holds with probability at least 1 − δ over m independent examples, for all hypotheses of
a prefix-free language at once, for a loss in [0, 1]. The language must be fixed before the data
are seen. For the same lengths, kl_bound ≤ kraft_bound ≤ occam_bound ≤ theorem2_bound.

References:
  Hoeffding, *Probability Inequalities for Sums of Bounded Random Variables*, JASA 58, 1963.
  Langford, *Tutorial on Practical Prediction Theory for Classification*, JMLR 6, 2005.
  Maurer, *A Note on the PAC-Bayesian Theorem*, arXiv:cs/0411099, 2004.
  Shalev-Shwartz and Ben-David, *Understanding Machine Learning*, 2014, Theorem 7.7.
  Neyshabur, *Towards Learning Convolutions from Scratch*, NeurIPS 2020, Theorems 1 and 2.
"""

import numbers

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]

_MOST_EXAMPLES = 2**53  # float64 holds every integer up to here
_TINY = np.finfo(np.float64).tiny

# Sixteen times the spacing of float64 at 1. If log and log1p are good to one unit in the last
# place, rounding moves what it is applied to by less than nine.
_UPWARDS = 1 + 2.0**-48


def occam_bound(
    sample_loss: ArrayLike, bits: ArrayLike, num_examples: int, delta: float = 0.05
) -> Float:
    """The error that holds with probability 1 − δ for every hypothesis of a prefix-free language.

    L_D ≤ L_S + sqrt((|d| + ln(2/δ)) / (2m)), Theorem 7.7 of *Understanding Machine Learning*.
    The language must be fixed before the data are seen.

    Args:
      sample_loss: L_S, the mean loss on the m examples, in [0, 1].
      bits: |d|, the length of the hypothesis's description, in bits; infinity where there is none.
      num_examples: m, the number of independent examples that L_S averages over.
      delta: δ, the probability that the bound fails.

    Returns:
      The bound, float64, of the shape that the arguments broadcast to. It may exceed 1. It is
      rounded up: not below the formula's exact value, and above it by less than one part in 10¹⁴.

    Raises:
      ValueError: for a loss outside [0, 1], negative bits, NaN, m not an integer in [1, 2⁵³] or δ
        outside (0, 1).
    """
    loss, length, m, delta = _arguments(sample_loss, bits, num_examples, delta)
    return _occam(loss, length, m, np.log(2) - np.log(delta))


def kraft_bound(
    sample_loss: ArrayLike, bits: ArrayLike, num_examples: int, delta: float = 0.05
) -> Float:
    """A tighter `occam_bound`, which keeps the factor ln 2 and uses a one-sided inequality.

    L_D ≤ L_S + sqrt((|d| ln 2 + ln(1/δ)) / (2m)). Hypothesis h may fail with probability
    δ·2^−|d(h)|. By Kraft's inequality these sum to at most δ, and Hoeffding's inequality,
    one-sided, gives the width. Theorem 7.7 has |d| where this has |d| ln 2, a length in bits used
    as if it were in nats, and ln(2/δ), as it bounds |L_D − L_S| from both sides.

    Args:
      sample_loss: L_S, the mean loss on the m examples, in [0, 1].
      bits: |d|, the length of the hypothesis's description, in bits; infinity where there is none.
      num_examples: m, the number of independent examples that L_S averages over.
      delta: δ, the probability that the bound fails.

    Returns:
      The bound, float64, of the shape that the arguments broadcast to. It may exceed 1. It is
      rounded up: not below the formula's exact value, and above it by less than one part in 10¹⁴.
      It is at most `occam_bound` of the same arguments.

    Raises:
      ValueError: as `occam_bound`.
    """
    loss, length, m, delta = _arguments(sample_loss, bits, num_examples, delta)
    return np.asarray((loss + np.sqrt(_nats(length, m, delta) / 2)) * _UPWARDS)


def kl_bound(
    sample_loss: ArrayLike, bits: ArrayLike, num_examples: int, delta: float = 0.05
) -> Float:
    """The relative entropy form: the largest error that the training error does not contradict.

    The largest L_D in [L_S, 1] with kl(L_S‖L_D) ≤ (|d| ln 2 + ln(1/δ)) / m, where
    kl(q‖p) = q ln(q/p) + (1 − q) ln((1 − q)/(1 − p)) is in nats. For L_S = 0 this is
    1 − exp(−(|d| ln 2 + ln(1/δ)) / m).

    For L_S < L_D, a loss in [0, 1] has a mean of L_S or less on m examples with probability at most
    exp(−m kl(L_S‖L_D)) (Hoeffding 1963, Theorem 1). The rest is as in `kraft_bound`: a union bound
    over a countable set, fixed before the data, in which h has the weight 2^−|d(h)|. So ln(1/δ)
    suffices. The ln(2√m/δ) of Maurer 2004 is for PAC-Bayes, where the data choose a distribution.
    The Occam's razor bound of Langford 2005, for the 0-1 loss, inverts the binomial tail itself and
    is tighter still.

    Args:
      sample_loss: L_S, the mean loss on the m examples, in [0, 1].
      bits: |d|, the length of the hypothesis's description, in bits; infinity where there is none.
      num_examples: m, the number of independent examples that L_S averages over.
      delta: δ, the probability that the bound fails.

    Returns:
      The bound, float64, of the shape that the arguments broadcast to, in [L_S, 1]. It is rounded
      up: not below the exact inverse, and above it by less than one part in 10¹⁴. It is at most
      `kraft_bound` of the same arguments, and never falls as bits grow, or as m or δ shrinks.

    Raises:
      ValueError: as `occam_bound`.
    """
    loss, length, m, delta = _arguments(sample_loss, bits, num_examples, delta)
    inverse = _inverse_kl(loss, _nats(length, m, delta)) * _UPWARDS
    # All three are rounded up, so the smallest of them is a bound.
    return np.asarray(np.minimum(np.minimum(inverse, 1), kraft_bound(loss, length, m, delta)))


def theorem2_bits(
    nonzeros: ArrayLike, distinct: ArrayLike, total: int, bits_per_value: float
) -> Float:
    """The code length of Theorem 2 of Neyshabur 2020, in bits.

    Weights that take k distinct values (zero among them) of b bits each, ‖w‖₀ of n of them not
    zero, take k·b bits for the values and |d(g)| ≤ ‖w‖₀ log₂(k·n) + 2 log₂ n bits for which
    weight takes which. The theorem is uniform over k through a union bound, so its bound is
    `occam_bound(loss, theorem2_bits(...), m, delta / n)`, which is `theorem2_bound`.

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


def theorem2_bound(
    sample_loss: ArrayLike,
    nonzeros: ArrayLike,
    distinct: ArrayLike,
    total: int,
    bits_per_value: float,
    num_examples: int,
    delta: float = 0.05,
) -> Float:
    """Theorem 2 of Neyshabur 2020, for sparse weights that share values.

    L_D ≤ L_S + sqrt((k·b + |d(g)| + ln(2n/δ)) / (2m)), with k·b + |d(g)| = `theorem2_bits` in bits
    and used, as in `occam_bound`, without the factor ln 2.

    Args:
      sample_loss: L_S, the mean loss on the m examples, in [0, 1].
      nonzeros: ‖w‖₀, the number of weights that are not zero.
      distinct: k, the number of distinct values, zero among them.
      total: n, the number of weights.
      bits_per_value: b, the length of one value in bits.
      num_examples: m, the number of independent examples that L_S averages over.
      delta: δ, the probability that the bound fails.

    Returns:
      The bound, float64, of the shape that the arguments broadcast to. It may exceed 1. It is
      rounded up, as `occam_bound`.

    Raises:
      ValueError: as `occam_bound` and `theorem2_bits`.
    """
    length = theorem2_bits(nonzeros, distinct, total, bits_per_value)
    loss, length, m, delta = _arguments(sample_loss, length, num_examples, delta)
    # δ/n may be smaller than any number of float64; its logarithm is not.
    return _occam(loss, length, m, np.log(2) - np.log(delta) + np.log(total))


def _occam(loss: Float, length: Float, m: int, confidence: float) -> Float:
    """L_S + sqrt((|d| + confidence) / (2m)), rounded up; the confidence is in nats."""
    return np.asarray((loss + np.sqrt((length + confidence) / (2 * m))) * _UPWARDS)


def _arguments(
    sample_loss: ArrayLike, bits: ArrayLike, num_examples: int, delta: float
) -> tuple[Float, Float, int, float]:
    """What the bounds have in common, checked and converted. A loss of −0.0 becomes 0.0."""
    loss, length = np.asarray(sample_loss, np.float64), np.asarray(bits, np.float64)
    _require(bool(np.all((loss >= 0) & (loss <= 1))), "sample_loss", sample_loss, "in [0, 1]")
    _require(bool(np.all(length >= 0)), "bits", bits, "≥ 0")
    _require(
        isinstance(num_examples, numbers.Integral) and 1 <= num_examples <= _MOST_EXAMPLES,
        "num_examples",
        num_examples,
        "an integer in [1, 2⁵³]",
    )
    _require(0 < delta < 1, "delta", delta, "in (0, 1)")
    return np.asarray(np.abs(loss)), length, int(num_examples), float(delta)


def _nats(length: Float, m: int, delta: float) -> Float:
    """(|d| ln 2 + ln(1/δ)) / m, in nats per example."""
    return np.asarray((length * np.log(2) - np.log(delta)) / m)


def _kl(q: Float, p: Float) -> Float:
    """kl(q‖p) in nats for q ≤ p < 1 or q = p = 1, to rounding of its two terms."""
    gap = p - q
    rise = (1 - q) * np.log1p(gap / np.maximum(1 - p, _TINY))
    # For q below the smallest normal number this term is too small to be seen.
    fall = q * np.log1p(gap / np.maximum(q, _TINY))
    return np.asarray(rise - fall)


def _inverse_kl(loss: Float, nats: Float) -> Float:
    """The largest p in [loss, 1] with kl(loss‖p) ≤ nats, to within nine float64 spacings.

    The two terms of kl nearly cancel where p is close to loss. It does no harm: an error of ε
    times a term moves p by at most ε·p, as each term is at most (p − q) / (1 − p) and the slope of
    kl is (p − q) / (p (1 − p)).

    Non-negative floats are ordered like their bit patterns, so that halving the patterns between
    loss and 1 arrives at neighbours after 62 steps, for the smallest p as well. Where the halving
    starts does not depend on nats, so the result never falls as nats grow.
    """
    q, nats = (np.array(array) for array in np.broadcast_arrays(loss, nats))
    low, high = q.view(np.int64), np.ones_like(q).view(np.int64)
    while np.any(high - low > 1):
        middle = np.asarray(low + (high - low) // 2)
        holds = _kl(q, middle.view(np.float64)) <= nats
        low, high = np.where(holds, middle, low), np.where(holds, high, middle)
    return high.view(np.float64)


def _require(holds: bool, name: str, got: object, accepts: str) -> None:
    if not holds:
        raise ValueError(f"{name} = {got!r} must be {accepts}")
