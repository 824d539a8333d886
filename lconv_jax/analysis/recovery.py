"""Whether a first layer found the inputs that the units of a known network read.

Learned supports are compared with the teacher's. For chance, so are shuffled supports, in which
every unit and every input has as many weights as in the learned layer. The difference is due to the
grouping of weights within a unit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lconv_jax.analysis.locality import shuffle_support


class Match(NamedTuple):
    """Precision and recall of supports, each against the teacher's unit it is matched to.

    precision: share of a learned unit's inputs that its teacher's unit reads.
    recall: share of the inputs of a teacher's unit that its learned unit reads.
    overlap: inputs in both / inputs in either (Jaccard).

    Means over the units that are matched from: the learned ones, or one-to-one the teacher's. There
    a unit that has no partner, because there are fewer learned units, has overlap and recall 0, and
    no precision.
    """

    precision: float
    recall: float
    overlap: float


class Recovery(NamedTuple):
    """What `recovery` finds."""

    units: int  # learned units with at least `min_nonzeros` inputs
    teacher_units: int  # with supports that differ
    best: Match  # each learned unit with the teacher's unit of largest overlap
    best_null: Match  # the same for shuffled supports, a mean over shuffles
    one_to_one: Match  # the assignment of the largest summed overlap, a mean over teacher's units
    one_to_one_null: Match


def recovery(
    kernel: Any,
    teacher: Any,
    *,
    largest: int | None = None,
    min_nonzeros: int = 1,
    shuffles: int = 5,
    seed: int = 0,
) -> Recovery:
    """Precision and recall of a dense layer's support against a teacher's, and by chance.

    Args:
      kernel: [inputs, units], a weight of zero meaning none.
      teacher: bool [inputs, units], which inputs each unit of the teacher reads. A convolution is
        given with a unit for every place; units that read the same inputs count once.
      largest: if given, a learned unit's support is its so many weights of largest magnitude, as
        far as they are not zero: for layers in which no weight is exactly zero.
      min_nonzeros: learned units with fewer weights are left out.
      shuffles: supports that the null is a mean over.
      seed: of the shuffles.

    Returns:
      NaN in all means where no unit is left.

    Raises:
      ValueError: the two have not the same inputs, or a teacher's unit reads none.
    """
    kernel, teacher = np.asarray(kernel, np.float64), np.asarray(teacher, bool)
    if kernel.ndim != 2 or teacher.ndim != 2 or len(kernel) != len(teacher):
        raise ValueError(
            f"kernel of shape {kernel.shape} and teacher of shape {teacher.shape} must both be "
            "[inputs, units], with the same inputs"
        )
    if not teacher.any(0).all():
        raise ValueError("teacher: every unit must read an input; leave the others out")
    teacher = np.unique(teacher, axis=1)
    support = kernel != 0
    support, kernel = (
        each[:, support.sum(0) >= max(1, min_nonzeros)] for each in (support, kernel)
    )
    if largest is not None:
        support = cut(kernel, largest) != 0
    rng = np.random.default_rng(seed)
    nulls = [shuffle_support(support, rng) for _ in range(shuffles)]
    return Recovery(
        support.shape[1],
        teacher.shape[1],
        _best(support, teacher),
        _mean([_best(null, teacher) for null in nulls]),
        _one_to_one(support, teacher),
        _mean([_one_to_one(null, teacher) for null in nulls]),
    )


def cut(kernel: NDArray[Any], count: int) -> NDArray[Any]:
    """The kernel with all but the `count` largest weights of each unit set to zero.

    Of weights of one magnitude the first are kept.

    Args:
      kernel: [inputs, units].
      count: weights that are kept, at most, of each unit.

    Returns:
      An array of the same shape and type.
    """
    order = np.argsort(-np.abs(kernel), axis=0, kind="stable")
    kept = np.zeros_like(kernel)
    np.put_along_axis(kept, order[:count], np.take_along_axis(kernel, order[:count], 0), 0)
    return kept


def overlaps(support: NDArray[np.bool_], teacher: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Inputs in both over inputs in either, [units, teacher's units]."""
    both = _both(support, teacher)
    return both / (support.sum(0)[:, None] + teacher.sum(0) - both)


def partners(support: NDArray[np.bool_], teacher: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The learned unit of each teacher's unit, one-to-one at the largest summed overlap; −1: none.

    The assignment is found by `scipy.optimize.linear_sum_assignment`.
    """
    from scipy.optimize import linear_sum_assignment

    found = np.full(teacher.shape[1], -1)
    rows, columns = linear_sum_assignment(overlaps(support, teacher), maximize=True)
    found[columns] = rows
    return found


def _both(support: NDArray[np.bool_], teacher: NDArray[np.bool_]) -> NDArray[np.int64]:
    return support.T.astype(np.int64) @ teacher


def _best(support: NDArray[np.bool_], teacher: NDArray[np.bool_]) -> Match:
    if not support.shape[1]:
        return Match(np.nan, np.nan, np.nan)
    overlap = overlaps(support, teacher)
    unit, best = np.arange(support.shape[1]), overlap.argmax(1)
    both = _both(support, teacher)[unit, best]
    return Match(
        float(np.mean(both / support.sum(0))),
        float(np.mean(both / teacher.sum(0)[best])),
        float(np.mean(overlap[unit, best])),
    )


def _one_to_one(support: NDArray[np.bool_], teacher: NDArray[np.bool_]) -> Match:
    if not support.shape[1]:
        return Match(np.nan, np.nan, np.nan)
    partner = partners(support, teacher)
    matched = np.flatnonzero(partner >= 0)
    mine = partner[matched]
    both = _both(support, teacher)[mine, matched]
    count = teacher.shape[1]
    return Match(
        float(np.mean(both / support.sum(0)[mine])),
        float(np.sum(both / teacher.sum(0)[matched]) / count),
        float(np.sum(overlaps(support, teacher)[mine, matched]) / count),
    )


def _mean(matches: list[Match]) -> Match:
    return Match(*(float(np.mean(values)) for values in zip(*matches, strict=True)))
