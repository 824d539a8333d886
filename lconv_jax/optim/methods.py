"""The training methods that a configuration names: one entry each, which is all there is of it.

An entry says which keys it reads, which numbers follow from them, and how the transformation is
made of these numbers. The numbers may be traced, so that one program trains many settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lconv_jax.optim.beta_lasso import lasso
from lconv_jax.optim.hard_concrete import hard_concrete, hard_concrete_eval_params
from lconv_jax.optim.labels import layer_labels
from lconv_jax.optim.proximal import (
    elastic_net_threshold,
    group_soft_threshold,
    reweighted_soft_threshold,
)
from lconv_jax.optim.rescale import rescale_l1
from lconv_jax.optim.spred import spred
from lconv_jax.optim.subgradient import add_l1_subgradient
from lconv_jax.optim.threshold import soft_threshold


class Hyperparams(NamedTuple):
    """The numbers of a method, from a configuration.

    Attributes:
      numbers: the arguments of the transformation, floats by name.
      effective: λ, β, λ·Ση and β·λ as they are used, for the summary of a run.
    """

    numbers: dict[str, float]
    effective: dict[str, float]


class Given(NamedTuple):
    """All that a transformation is made of.

    Attributes:
      schedule: of η.
      numbers: of `Hyperparams`; they may be traced.
      settings: the values of `Method.settings`.
      seed: of random numbers, an integer that may be traced; None for a method without them.
      total_steps: of the run.
    """

    schedule: optax.Schedule
    numbers: Mapping[str, Any]
    settings: Mapping[str, Any]
    seed: Any
    total_steps: int


class Method(NamedTuple):
    """A training method.

    Attributes:
      keys: the keys of `config.optimizer` that it reads as numbers. Runs of one program may differ
        in them, so that nothing in the initial state may depend on them.
      check: raises ValueError for values of its keys and settings that contradict each other.
      hyperparams: (config, parameters or their shapes, Ση) -> `Hyperparams`; raises
        ValueError for values that do not fit the model.
      make: `Given` -> the transformation.
      settings: the other keys that it reads.
      random: whether it needs random numbers.
      absorbing: whether the method makes weights zero, and a zero weight with a zero gradient stays
        zero. Removing dead units relies on this.
    """

    keys: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], None]
    hyperparams: Callable[[Any, Any, float], Hyperparams]
    make: Callable[[Given], optax.GradientTransformation]
    settings: tuple[str, ...] = ()
    random: bool = False
    absorbing: bool = False


# Keys of which 0 means that the transformation lacks a part.
OPTIONAL = ("momentum", "weight_decay")
_SGD = ("learning_rate", *OPTIONAL)
_L1 = ("l1.conv", "l1.fc")


def _sgd_hyperparams(config: Any, params: Any, lr_sum: float) -> Hyperparams:
    opt = config.optimizer
    numbers = {name: float(opt[name]) for name in _SGD if opt[name]}
    return Hyperparams(numbers, {"lr_sum": lr_sum})


def _make_sgd(given: Given) -> optax.GradientTransformation:
    return _decayed(optax.sgd(given.schedule, given.numbers.get("momentum")), given)


def _decayed(method: optax.GradientTransformation, given: Given) -> optax.GradientTransformation:
    """The method after L2 decay of the weights, biases and normalisation left out."""
    if "weight_decay" not in given.numbers:
        return method
    decay = optax.add_decayed_weights(
        given.numbers["weight_decay"],
        mask=lambda tree: jax.tree.map(lambda label: label != "none", layer_labels(tree)),
    )
    return optax.chain(decay, method)


def _check_penalty(name: str) -> Callable[[Mapping[str, Any]], None]:
    def check(opt: Mapping[str, Any]) -> None:
        if not (opt["l1.conv"] or opt["l1.fc"]):
            raise ValueError(
                f"config.optimizer.l1.conv and l1.fc are both 0, so {name} would regularise "
                "nothing; set one, or choose config.optimizer.name=sgd"
            )

    return check


def _penalty_hyperparams(*more: str) -> Callable[[Any, Any, float], Hyperparams]:
    """λ of each kind of layer, rescaled to the run's length, and other keys as they are."""

    def hyperparams(config: Any, params: Any, lr_sum: float) -> Hyperparams:
        numbers, effective = _sgd_hyperparams(config, params, lr_sum)
        opt = config.optimizer
        present = set(jax.tree.leaves(layer_labels(params)))
        l1 = {label: float(opt.l1[label]) for label in ("conv", "fc") if label in present}
        if not any(l1.values()):
            raise ValueError(
                f"config.optimizer.l1 = {dict(opt.l1)} regularises no layer of "
                f"{config.model.name}, which has "
                f"{' and '.join(f'l1.{label}' for label in l1)}; set one"
            )
        beta = float(opt.beta)
        if opt.reference_lr_sum:
            l1, beta = rescale_l1(l1, beta, lr_sum=lr_sum, reference_lr_sum=opt.reference_lr_sum)
        if "beta" in more:
            effective["beta"] = beta
        for label, value in l1.items():
            effective[f"l1.{label}"] = value
            effective[f"l1.{label} * lr_sum"] = value * lr_sum
            numbers[f"l1.{label}"] = value
            if "beta" in more:
                effective[f"l1.{label} * beta"] = value * beta
                numbers[f"threshold.{label}"] = beta * value
        return Hyperparams(
            numbers | {key: float(opt[key]) for key in more if key != "beta"}, effective
        )

    return hyperparams


def _by_label(given: Given, kind: str = "l1") -> dict[str, Any]:
    """The numbers "`kind`.LABEL", by label."""
    found = {key.partition("."): value for key, value in given.numbers.items()}
    return {label: value for (start, _, label), value in found.items() if start == kind and label}


def _times_rate(given: Given, value: Any) -> Callable[[Any], Any]:
    """η · value at each step: the threshold of a proximal step after a step of size η."""
    return lambda count: given.schedule(count) * value


def _thresholds(given: Given) -> dict[str, Any]:
    return {label: _times_rate(given, value) for label, value in _by_label(given).items()}


def _make_beta_lasso(given: Given) -> optax.GradientTransformation:
    method = lasso(
        *(given.schedule, _by_label(given), _by_label(given, "threshold")),
        momentum=given.numbers.get("momentum"),
    )
    return _decayed(method, given)


def _after_sgd(
    step: Callable[[Given], optax.GradientTransformation],
) -> Callable[[Given], optax.GradientTransformation]:
    """A proximal step after SGD's own."""
    return lambda given: optax.chain(_make_sgd(given), step(given))


def _make_hard_concrete(given: Given) -> optax.GradientTransformation:
    gates = given._replace(
        schedule=_times_rate(given, given.numbers["gate_rate"]),
        numbers={key: given.numbers[key] for key in given.numbers if key != "weight_decay"},
    )
    inner = optax.partition(
        {"weights": _make_sgd(given), "gates": _make_sgd(gates)},
        {"raw": "weights", "log_alpha": "gates"},
    )
    drop_rate = given.settings["drop_rate"]
    tx = hard_concrete(inner, _by_label(given), drop_rate=drop_rate, seed=given.seed)
    return _ends_with(tx, hard_concrete_eval_params, given.total_steps)


def _ends_with(
    tx: optax.GradientTransformationExtraArgs,
    eval_params: Callable[[Any, Any], Any],
    total_steps: int,
) -> optax.GradientTransformationExtraArgs:
    """`tx`, whose last update leads to the parameters for a test: those that are kept of a run."""

    def init_fn(params: Any) -> Any:
        return jnp.zeros([], jnp.int32), tx.init(params)

    def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        count, inner = state
        updates, inner = tx.update(updates, inner, params, **extra_args)
        count = optax.safe_increment(count)

        def settle(updates: Any) -> Any:
            wanted = eval_params(inner, params)
            return jax.tree.map(
                lambda update, new, old: (new - old).astype(update.dtype), updates, wanted, params
            )

        updates = jax.lax.cond(count == total_steps, settle, lambda updates: updates, updates)
        return updates, (count, inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


METHODS: dict[str, Method] = {
    "beta_lasso": Method(
        keys=(*_SGD, *_L1, "beta", "reference_lr_sum"),
        check=_check_penalty("beta_lasso"),
        hyperparams=_penalty_hyperparams("beta"),
        make=_make_beta_lasso,
        absorbing=True,
    ),
    "sgd": Method(
        keys=_SGD,
        check=lambda opt: None,
        hyperparams=_sgd_hyperparams,
        make=_make_sgd,
    ),
    "l1_subgradient": Method(
        keys=(*_SGD, *_L1, "reference_lr_sum"),
        check=_check_penalty("l1_subgradient"),
        hyperparams=_penalty_hyperparams(),
        make=lambda given: optax.chain(add_l1_subgradient(_by_label(given)), _make_sgd(given)),
    ),
    "proximal_l1": Method(
        keys=(*_SGD, *_L1, "reference_lr_sum"),
        check=_check_penalty("proximal_l1"),
        hyperparams=_penalty_hyperparams(),
        make=_after_sgd(lambda given: soft_threshold(_thresholds(given))),
    ),
    "elastic_net": Method(
        keys=(*_SGD, *_L1, "l2", "reference_lr_sum"),
        check=_check_penalty("elastic_net"),
        hyperparams=_penalty_hyperparams("l2"),
        make=_after_sgd(
            lambda given: elastic_net_threshold(
                _thresholds(given),
                {label: _times_rate(given, given.numbers["l2"]) for label in _by_label(given)},
            )
        ),
    ),
    "group_lasso": Method(
        keys=(*_SGD, *_L1, "reference_lr_sum"),
        check=_check_penalty("group_lasso"),
        hyperparams=_penalty_hyperparams(),
        make=_after_sgd(
            lambda given: group_soft_threshold(_thresholds(given), given.settings["groups"])
        ),
        settings=("groups",),
    ),
    "reweighted_l1": Method(
        keys=(*_SGD, *_L1, "epsilon", "reference_lr_sum"),
        check=_check_penalty("reweighted_l1"),
        hyperparams=_penalty_hyperparams("epsilon"),
        make=_after_sgd(
            lambda given: reweighted_soft_threshold(_thresholds(given), given.numbers["epsilon"])
        ),
    ),
    "hard_concrete": Method(
        keys=(*_SGD, *_L1, "gate_rate", "reference_lr_sum"),
        check=_check_penalty("hard_concrete"),
        hyperparams=_penalty_hyperparams("gate_rate"),
        make=_make_hard_concrete,
        settings=("drop_rate",),
        random=True,
    ),
    "spred": Method(
        keys=(*_SGD, *_L1, "reference_lr_sum"),
        check=_check_penalty("spred"),
        hyperparams=_penalty_hyperparams(),
        make=lambda given: spred(_make_sgd(given), _by_label(given)),
    ),
}
