"""The training methods that a configuration names: one entry each, which is all there is of it.

An entry says which keys it reads, which numbers follow from them, and how the transformation is
made of these numbers. The numbers may be traced, so that one program trains many settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from lconv_jax.optim.beta_lasso import lasso
from lconv_jax.optim.labels import layer_labels
from lconv_jax.optim.rescale import rescale_l1


class Hyperparams(NamedTuple):
    """What a configuration makes of a method.

    Attributes:
      numbers: what the transformation is made of, float by name.
      effective: what a report says of them: λ, β, λ·Ση and β·λ as they are used.
    """

    numbers: dict[str, float]
    effective: dict[str, float]


class Method(NamedTuple):
    """A training method.

    Attributes:
      keys: the keys of `config.optimizer` that it reads; all are numbers.
      check: raises ValueError for values of these keys that do not go together.
      hyperparams: (config, parameters or their shapes, Ση) -> `Hyperparams`; raises
        ValueError for values that do not fit the model.
      make: (schedule of η, numbers) -> the transformation.
      absorbing: whether a weight that is zero, with a zero gradient, stays zero, and zeros come
        about: what leaving out dead units rests on.
    """

    keys: tuple[str, ...]
    check: Callable[[Mapping[str, Any]], None]
    hyperparams: Callable[[Any, Any, float], Hyperparams]
    make: Callable[[optax.Schedule, Mapping[str, Any]], optax.GradientTransformation]
    absorbing: bool


# Keys of which 0 means that the transformation lacks a part.
OPTIONAL = ("momentum", "weight_decay")


def _sgd_hyperparams(config: Any, params: Any, lr_sum: float) -> Hyperparams:
    opt = config.optimizer
    numbers = {name: float(opt[name]) for name in ("learning_rate", *OPTIONAL) if opt[name]}
    return Hyperparams(numbers, {"lr_sum": lr_sum})


def _make_sgd(schedule: optax.Schedule, numbers: Mapping[str, Any]) -> optax.GradientTransformation:
    return _decayed(optax.sgd(schedule, numbers.get("momentum")), numbers)


def _check_beta_lasso(opt: Mapping[str, Any]) -> None:
    if not (opt["l1.conv"] or opt["l1.fc"]):
        raise ValueError(
            "config.optimizer.l1.conv and l1.fc are both 0, so beta_lasso would regularise "
            "nothing; set one, or choose config.optimizer.name=sgd"
        )


def _beta_lasso_hyperparams(config: Any, params: Any, lr_sum: float) -> Hyperparams:
    numbers, effective = _sgd_hyperparams(config, params, lr_sum)
    opt = config.optimizer
    present = set(jax.tree.leaves(layer_labels(params)))
    l1 = {label: float(opt.l1[label]) for label in ("conv", "fc") if label in present}
    if not any(l1.values()):
        raise ValueError(
            f"config.optimizer.l1 = {dict(opt.l1)} regularises no layer of {config.model.name}, "
            f"which has {' and '.join(f'l1.{label}' for label in l1)}; set one"
        )
    beta = float(opt.beta)
    if opt.reference_lr_sum:
        l1, beta = rescale_l1(l1, beta, lr_sum=lr_sum, reference_lr_sum=opt.reference_lr_sum)
    effective["beta"] = beta
    for label, value in l1.items():
        effective[f"l1.{label}"] = value
        effective[f"l1.{label} * lr_sum"] = value * lr_sum
        effective[f"l1.{label} * beta"] = value * beta
        numbers |= {f"l1.{label}": value, f"threshold.{label}": beta * value}
    return Hyperparams(numbers, effective)


def _make_beta_lasso(
    schedule: optax.Schedule, numbers: Mapping[str, Any]
) -> optax.GradientTransformation:
    l1, threshold = (
        {key[len(kind) :]: value for key, value in numbers.items() if key.startswith(kind)}
        for kind in ("l1.", "threshold.")
    )
    method = lasso(schedule, l1, threshold, momentum=numbers.get("momentum"))
    return _decayed(method, numbers)


def _decayed(
    method: optax.GradientTransformation, numbers: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The method after L2 decay of the weights, biases and normalisation left out."""
    if "weight_decay" not in numbers:
        return method
    decay = optax.add_decayed_weights(
        numbers["weight_decay"],
        mask=lambda tree: jax.tree.map(lambda label: label != "none", layer_labels(tree)),
    )
    return optax.chain(decay, method)


METHODS: dict[str, Method] = {
    "beta_lasso": Method(
        keys=("learning_rate", "l1.conv", "l1.fc", "beta", *OPTIONAL, "reference_lr_sum"),
        check=_check_beta_lasso,
        hyperparams=_beta_lasso_hyperparams,
        make=_make_beta_lasso,
        absorbing=True,
    ),
    "sgd": Method(
        keys=("learning_rate", *OPTIONAL),
        check=lambda opt: None,
        hyperparams=_sgd_hyperparams,
        make=_make_sgd,
        absorbing=False,
    ),
}
