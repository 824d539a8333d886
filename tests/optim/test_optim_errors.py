"""Errors name the argument, what it got and what it accepts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lconv_jax import (
    add_l1_subgradient,
    beta_lasso,
    elastic_net_threshold,
    group_soft_threshold,
    hard_concrete,
    hard_threshold,
    rescale_l1,
    reweighted_soft_threshold,
    soft_threshold,
    spred,
)

PARAMS = {"conv1": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}
PARTS = [
    add_l1_subgradient,
    hard_threshold,
    soft_threshold,
    lambda l1, labels=None: elastic_net_threshold(l1, 0.1, labels),
    lambda l2, labels=None: elastic_net_threshold(0.1, l2, labels),
    lambda threshold, labels=None: group_soft_threshold(threshold, labels=labels),
    lambda threshold, labels=None: reweighted_soft_threshold(threshold, 1.0, labels),
    lambda l0, labels=None: hard_concrete(optax.sgd(0.1), l0, labels=labels),
    lambda decay, labels=None: spred(optax.sgd(0.1), decay, labels=labels),
]


@pytest.mark.parametrize(
    "value",
    [10**400, -1e-6, float("nan"), float("inf"), "0.1", None, 1j, np.float32(-1), jnp.array(-1.0)],
)
def test_values_that_are_no_strength(value):
    accepted = "must be a finite number that is not negative, or a schedule, got"
    with pytest.raises(ValueError, match=f"^l1 {accepted}"):
        beta_lasso(0.1, value)
    with pytest.raises(ValueError, match=rf"^l1\['fc'\] {accepted}"):
        beta_lasso(0.1, {"conv": 0.0, "fc": value})
    with pytest.raises(ValueError, match=f"^beta {accepted}"):
        beta_lasso(0.1, 1e-5, value)
    for make in PARTS:
        with pytest.raises(ValueError, match=accepted):
            make(value)
    with pytest.raises(ValueError, match=f"^beta {accepted}"):
        rescale_l1(0.1, value, lr_sum=1.0, reference_lr_sum=1.0)


def test_what_was_given_is_shown():
    with pytest.raises(ValueError, match=r"got -0\.5"):
        beta_lasso(0.1, 1e-5, -0.5)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        beta_lasso(0.1, np.ones(3))
    with pytest.raises(ValueError, match=r"l1 .* shape \(3,\)"):
        jax.eval_shape(lambda l1: beta_lasso(0.1, l1) and l1, jnp.ones(3))


def test_mappings():
    with pytest.raises(ValueError, match="l1 is an empty mapping"):
        beta_lasso(0.1, {})
    with pytest.raises(ValueError, match=r"beta must be a number or a schedule, got \{'conv': 1"):
        beta_lasso(0.1, {"conv": 1e-5}, {"conv": 1.0})
    with pytest.raises(ValueError, match="'none', the label of parameters that are left alone"):
        beta_lasso(0.1, {"none": 1e-5})
    with pytest.raises(ValueError, match="l1 has the key 3; labels are strings"):
        beta_lasso(0.1, {3: 1e-5})
    with pytest.raises(ValueError, match=r"l1\['conv'\] must be a number or a schedule"):
        beta_lasso(0.1, {"conv": {"a": 1e-5}})


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_a_key_that_no_leaf_carries(momentum):
    tx = beta_lasso(0.1, {"conv": 1e-5, "dense": 1e-5}, momentum=momentum)
    with pytest.raises(ValueError, match=r"l1 has the key 'dense'.*\['conv', 'none'\]"):
        tx.init(PARAMS)


def test_nothing_to_regularise():
    for make in PARTS:
        with pytest.raises(ValueError, match="nothing to act on"):
            make(0.1).init({"bias": jnp.ones(3)})
        with pytest.raises(ValueError, match="nothing to act on"):
            make(0.1, lambda params: "none").init(PARAMS)


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="labels must have a label for every parameter"):
        beta_lasso(0.1, {"conv": 1e-5}, labels={"conv2": "conv"}).init(PARAMS)
    mask = jax.tree.map(lambda leaf: leaf.ndim > 1, PARAMS)
    with pytest.raises(ValueError, match="labels must be a pytree of strings; it holds False"):
        beta_lasso(0.1, 1e-5, labels=mask).init(PARAMS)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_missing_params(momentum):
    tx = beta_lasso(0.1, 1e-5, momentum=momentum)
    with pytest.raises(ValueError, match=r"params is None.*update\(grads, state, params\)"):
        tx.update(PARAMS, tx.init(PARAMS))
    for make in PARTS:
        with pytest.raises(ValueError, match="params is None"):
            make(0.1).update(PARAMS, make(0.1).init(PARAMS))


def test_rescale_l1():
    for name in ("lr_sum", "reference_lr_sum"):
        for value in (0.0, -1.0, float("nan")):
            sums = {"lr_sum": 1.0, "reference_lr_sum": 1.0} | {name: value}
            with pytest.raises(ValueError, match=f"^{name} must be a finite number above zero"):
                rescale_l1(0.1, 50.0, **sums)
    with pytest.raises(ValueError, match="l1 must be a number here, got a schedule"):
        rescale_l1({"fc": optax.constant_schedule(0.1)}, 50.0, lr_sum=1.0, reference_lr_sum=1.0)
