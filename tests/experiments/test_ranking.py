"""Rank correlations of kept results: of made networks whose order is known."""

import itertools
import json
import math

import numpy as np
import pytest

from lconv_jax.experiments import compare, ranking
from lconv_jax.experiments.ranking import Point


def made(order, training=0.1, seed=0):
    """Networks whose test errors have the given order, and bits that ascend."""
    return [
        Point(f"method {index}", seed, 0.1, 1000 * (index + 1), 0.5, training, 0.1 * rank)
        for index, rank in enumerate(order)
    ]


def bits(point):
    return point.bits


def test_tau_is_that_of_the_order():
    assert ranking.tau(made([0, 1, 2, 3]), bits) == pytest.approx(1)
    assert ranking.tau(made([3, 2, 1, 0]), bits) == pytest.approx(-1)
    # One pair of six is out of order.
    assert ranking.tau(made([1, 0, 2, 3]), bits) == pytest.approx(1 - 2 / 6)
    assert math.isnan(ranking.tau(made([0, 1]), bits))


def test_groups_are_of_equal_size_and_of_like_training_error():
    found = [point._replace(training=(7 * i) % 10 / 10) for i, point in enumerate(made(range(10)))]
    groups = ranking.by_training_error(found, 3)
    assert [len(group) for group in groups] == [3, 4, 3]
    assert sorted(itertools.chain(*groups)) == sorted(found)
    for low, high in itertools.pairwise(groups):
        assert max(p.training for p in low) <= min(p.training for p in high)


def test_within_groups_a_measure_may_rank_the_other_way():
    # Groups of training error 0.1, 0.2 and 0.3 have more errors each, and more bits help inside.
    found = [
        point._replace(training=0.1 * (group + 1), test=0.2 * group + 0.1 - 0.01 * index)._replace(
            bits=100 * group + index
        )
        for group in range(3)
        for index, point in enumerate(made(range(4)))
    ]
    (row,) = (line for line in ranking.table(found).splitlines() if line.startswith("| bits"))
    over_all, within = (float(cell) for cell in row.strip("| ").split(" | ")[1:])
    assert over_all > 0.4
    assert within == -1


def test_points_are_the_networks_that_were_kept_whole_and_cut(tmp_path):
    def described(bits):
        return {"mdl/bits": bits, "mdl/kl_bound": 0.9, "mdl/train_error": 0.2}

    def result(bits, cut=None):
        found = {
            "metrics": {"sparsity/density": 0.5, "eval/accuracy": 0.75},
            "description": described(bits),
        }
        if cut:
            found["cut"] = {"density": 0.1, "accuracy": 0.5, "description": described(cut)}
        return found

    study = compare.Study("digits", results=str(tmp_path))
    kept = {
        str(compare.Cell("beta_lasso", 1)): result(800),
        str(compare.Cell("sgd", 1)): result(9000, cut=700),
    }
    with open(study.file(), "w") as stream:
        json.dump(kept, stream)
    found = ranking.points("digits", str(tmp_path))
    assert found == [
        Point("beta_lasso", 1, 0.5, 800, 0.9, 0.2, 0.25),
        Point("sgd", 1, 0.5, 9000, 0.9, 0.2, 0.25),
        Point("sgd, cut", 1, 0.1, 700, 0.9, 0.2, 0.5),
    ]
    path = tmp_path / "ranking.png"
    ranking.draw({"digits": found}, str(path))
    assert path.stat().st_size > 5_000
    assert np.isfinite(ranking.tau(found, lambda point: point.weights))
