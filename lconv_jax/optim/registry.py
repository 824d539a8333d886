"""The optimizers that a configuration names: one entry of METHODS each is all there is of it.

An entry says which keys it reads, which numbers follow from them, and how the transformation is
made of these numbers. The numbers may be traced, so that one program trains many settings. To add
an optimizer, add an entry here, and its new keys to `config.KEYS`.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lconv_jax.optim.beta_lasso import lasso
from lconv_jax.optim.densities import DISTRIBUTIONS, GLOBAL
from lconv_jax.optim.growing import rigl, sparse_evolution
from lconv_jax.optim.hard_concrete import hard_concrete, hard_concrete_eval_params
from lconv_jax.optim.labels import layer_labels
from lconv_jax.optim.masks import fixed_masks, random_masks
from lconv_jax.optim.proximal import (
    elastic_net_threshold,
    group_soft_threshold,
    reweighted_soft_threshold,
)
from lconv_jax.optim.pruning import (
    lottery_ticket,
    magnitude_pruning,
    saliency_pruning,
    snip,
)
from lconv_jax.optim.rescale import rescale_l1
from lconv_jax.optim.spred import spred
from lconv_jax.optim.structures import NM, Blocks, Structure, Units
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
      schedule: of η; for `lottery_ticket` that of one round.
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


class Rounds(NamedTuple):
    """A schedule of `steps` steps that is gone through from `rewind` on `prunings` times more."""

    prunings: int
    steps: int
    rewind: int

    def position(self, step: Any) -> Any:
        """The position in the schedule at a step of the run, which may be traced."""
        length = self.steps - self.rewind
        turn = jnp.clip((step - self.steps) // length, 0, self.prunings - 1)
        again = step - self.steps - turn * length + self.rewind
        return jnp.where(step < self.steps, step, again)


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
      masked: whether parameters outside of masks in its state are zero from the beginning.
      rounds: (settings, total steps) -> the parts of a run whose schedule is repeated.
      cost: (settings, total steps) -> arguments of `analysis.training_flops`: what it needs beside
        the weights that are not zero.
      absorbing: whether the method makes weights zero, and a zero weight with a zero gradient stays
        zero. Removing dead units relies on this.
    """

    keys: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], None]
    hyperparams: Callable[[Any, Any, float], Hyperparams]
    make: Callable[[Given], optax.GradientTransformation]
    settings: tuple[str, ...] = ()
    random: bool = False
    masked: bool = False
    rounds: Callable[[Mapping[str, Any], int], Rounds] | None = None
    cost: Callable[[Mapping[str, Any], int], dict[str, Any]] = lambda settings, steps: {}
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
    return _settled(tx, given.total_steps)


def _settled(
    tx: optax.GradientTransformationExtraArgs, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """`hard_concrete`, whose last update leads to the weights for a test: a run keeps these."""

    def update_fn(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        updates, state = tx.update(updates, state, params, **extra_args)

        def settle(updates: Any) -> Any:
            wanted = hard_concrete_eval_params(state, params)
            return jax.tree.map(
                lambda update, new, old: (new - old).astype(update.dtype), updates, wanted, params
            )

        updates = jax.lax.cond(state.count == total_steps, settle, lambda updates: updates, updates)
        return updates, state

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


_DENSE_GRADIENTS = {"dense_gradients": True}
_MASKS = ("density", "distribution", "structure")


def _check_masks(opt: Mapping[str, Any]) -> None:
    _parse_structure(opt["structure"])
    _parse_densities(opt["distribution"])
    if "begin" in opt and opt["end"] < opt["begin"]:
        raise ValueError(
            f"config.optimizer.end = {opt['end']} is before config.optimizer.begin = "
            f"{opt['begin']}; both are shares of the run"
        )


def _parse_structure(text: str) -> Structure:
    """ "" for none, "2:4", "4x4" for blocks of inputs and outputs, "units"."""
    if text in ("", "units"):
        return Units() if text else None
    for sign, make in ((":", NM), ("x", Blocks)):
        parts = text.split(sign)
        if len(parts) == 2 and all(part.isdecimal() for part in parts):
            return make(*map(int, parts))
    raise ValueError(
        f"config.optimizer.structure = {text!r} must be empty, units, N:M as 2:4, or "
        "INPUTSxOUTPUTS as 4x4"
    )


def _parse_densities(text: str) -> dict[str, float]:
    """The densities of "conv1=0.1,fc1=0.5", by layer; none for the name of a distribution."""
    if "=" not in text:
        if text not in (*DISTRIBUTIONS, GLOBAL):
            raise ValueError(
                f"config.optimizer.distribution = {text!r} must be one of "
                f"{', '.join((*DISTRIBUTIONS, GLOBAL))}, or densities by layer: conv1=0.1,fc1=0.5"
            )
        return {}
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, value in pairs}
    except ValueError:
        raise ValueError(
            f"config.optimizer.distribution = {text!r} must be LAYER=DENSITY, separated by commas"
        ) from None


def _layer_names(params: Any) -> Any:
    """The layer's name for each weight, and "none" for other parameters."""

    def label(path: Any, kind: str) -> str:
        names = [str(getattr(entry, "key", entry)) for entry in path[:-1]]
        return "none" if kind == "none" else "/".join(names)

    return jax.tree_util.tree_map_with_path(label, layer_labels(params))


def _masks(given: Given) -> dict[str, Any]:
    """Density and its distribution, structure and labels, for a method with masks."""
    settings = given.settings
    by_layer = _parse_densities(settings["distribution"])
    found: dict[str, Any] = {"structure": _parse_structure(settings["structure"])}
    if by_layer:
        return found | {"density": by_layer, "labels": _layer_names}
    return found | {"density": settings["density"], "distribution": settings["distribution"]}


def _share(given: Given, key: str) -> int:
    """A share of the run as a number of steps."""
    return round(given.settings[key] * given.total_steps)


def _gradually(prune: Any) -> Callable[[Given], optax.GradientTransformation]:
    return lambda given: prune(
        _make_sgd(given),
        **_masks(given),
        begin=_share(given, "begin"),
        end=_share(given, "end"),
        every=given.settings["every"],
    )


def _rounds(settings: Mapping[str, Any], total_steps: int) -> Rounds:
    prunings, rewind = settings["rounds"], settings["rewind"]
    steps = max(1, int(total_steps / (1 + prunings * (1 - rewind))))
    return Rounds(prunings, steps, min(steps - 1, round(rewind * steps)))


def _make_lottery_ticket(given: Given) -> optax.GradientTransformation:
    rounds = _rounds(given.settings, given.total_steps)
    return lottery_ticket(
        _make_sgd(given),
        **_masks(given),
        rounds=rounds.prunings,
        steps_per_round=rounds.steps,
        rewind_step=rounds.rewind,
    )


def _make_fixed_masks(given: Given) -> optax.GradientTransformation:
    found = read_masks(given.settings["masks"])

    def masks(params: Any) -> Any:
        names = _layer_names(params)
        missing = found.keys() - set(jax.tree.leaves(names))
        if missing:
            raise ValueError(
                f"{given.settings['masks']} has masks for {', '.join(sorted(missing))}, and there "
                "is no such layer"
            )
        return jax.tree.map(found.get, names)

    return fixed_masks(_make_sgd(given), masks)


def read_masks(path: str) -> dict[str, np.ndarray[Any, Any]]:
    """The masks of an .npz file, by the layer's name.

    Raises:
      ValueError: there is no such file, or one of its arrays is not of bools.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"config.optimizer.masks = {path!r} must be an .npz file with a bool array for each "
            f"layer that has a mask, by the layer's name ({error})"
        ) from error
    for name, mask in found.items():
        if mask.dtype != bool:
            raise ValueError(
                f"config.optimizer.masks = {path!r}: {name} is {mask.dtype}; masks are bool"
            )
    return found


def _exchanging(grow: Any) -> Callable[[Given], optax.GradientTransformation]:
    return lambda given: grow(
        _make_sgd(given),
        **_masks(given),
        end=_share(given, "end"),
        every=given.settings["every"],
        drop_fraction=given.settings["drop_fraction"],
        seed=given.seed,
    )


def _rigl_cost(settings: Mapping[str, Any], total_steps: int) -> dict[str, Any]:
    steps = np.arange(total_steps)
    exchange = (steps > 0) & (steps % settings["every"] == 0)
    return {"dense_gradients": exchange & (steps < round(settings["end"] * total_steps))}


def _with_masks(
    make: Callable[[Given], optax.GradientTransformation], *more: str, **rest: Any
) -> Method:
    """The entry of a method with masks around SGD."""
    return Method(
        keys=_SGD,
        check=_check_masks,
        hyperparams=_sgd_hyperparams,
        make=make,
        settings=(*_MASKS, *more),
        masked=True,
        **rest,
    )


def _penalty(
    name: str, make: Callable[[Given], optax.GradientTransformation], *more: str, **rest: Any
) -> Method:
    """The entry of a method with a λ for each kind of layer."""
    return Method(
        keys=(*_SGD, *_L1, *more, "reference_lr_sum"),
        check=_check_penalty(name),
        hyperparams=_penalty_hyperparams(*more),
        make=make,
        **rest,
    )


def _proximal(
    name: str, step: Callable[[Given], optax.GradientTransformation], *more: str, **rest: Any
) -> Method:
    """The entry of a penalty whose proximal step comes after SGD's."""
    # A zero comes back by its gradient.
    cost = {"cost": lambda settings, steps: _DENSE_GRADIENTS | {"per_weight": 4.0}}
    return _penalty(
        name, lambda given: optax.chain(_make_sgd(given), step(given)), *more, **cost, **rest
    )


def _elastic_net_step(given: Given) -> optax.GradientTransformation:
    l2 = dict.fromkeys(_by_label(given), _times_rate(given, given.numbers["l2"]))
    return elastic_net_threshold(_thresholds(given), l2)


METHODS: dict[str, Method] = {
    "beta_lasso": _penalty(
        "beta_lasso",
        _make_beta_lasso,
        "beta",
        absorbing=True,
        # λ sign(θ), its sum, −η, the sum with θ, |θ|, the comparison.
        cost=lambda settings, steps: _DENSE_GRADIENTS | {"per_weight": 6.0},
    ),
    "sgd": Method(
        keys=_SGD,
        check=lambda opt: None,
        hyperparams=_sgd_hyperparams,
        make=_make_sgd,
    ),
    "l1_subgradient": _penalty(
        "l1_subgradient",
        lambda given: optax.chain(add_l1_subgradient(_by_label(given)), _make_sgd(given)),
    ),
    "proximal_l1": _proximal("proximal_l1", lambda given: soft_threshold(_thresholds(given))),
    "elastic_net": _proximal("elastic_net", _elastic_net_step, "l2"),
    "group_lasso": _proximal(
        "group_lasso",
        lambda given: group_soft_threshold(_thresholds(given), given.settings["groups"]),
        settings=("groups",),
    ),
    "reweighted_l1": _proximal(
        "reweighted_l1",
        lambda given: reweighted_soft_threshold(_thresholds(given), given.numbers["epsilon"]),
        "epsilon",
    ),
    "hard_concrete": _penalty(
        *("hard_concrete", _make_hard_concrete, "gate_rate"),
        settings=("drop_rate",),
        random=True,
    ),
    "spred": _penalty("spred", lambda given: spred(_make_sgd(given), _by_label(given))),
    "magnitude_pruning": _with_masks(_gradually(magnitude_pruning), *("begin", "end", "every")),
    "saliency_pruning": _with_masks(_gradually(saliency_pruning), *("begin", "end", "every")),
    "snip": _with_masks(
        lambda given: snip(_make_sgd(given), **_masks(given)),
        cost=lambda settings, steps: {"dense_forward": np.arange(steps) == 0},
    ),
    "lottery_ticket": _with_masks(_make_lottery_ticket, "rounds", "rewind", rounds=_rounds),
    "random_masks": _with_masks(
        lambda given: random_masks(_make_sgd(given), **_masks(given), seed=given.seed), random=True
    ),
    "fixed_masks": Method(
        keys=_SGD,
        check=lambda opt: None,
        hyperparams=_sgd_hyperparams,
        make=_make_fixed_masks,
        settings=("masks",),
        masked=True,
    ),
    "sparse_evolution": _with_masks(
        _exchanging(sparse_evolution), *("end", "every", "drop_fraction"), random=True
    ),
    "rigl": _with_masks(
        _exchanging(rigl), *("end", "every", "drop_fraction"), random=True, cost=_rigl_cost
    ),
}
