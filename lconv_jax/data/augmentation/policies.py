"""Augmentation policies: by name or from a file, and applied to a batch on the device.

A policy draws for each image one of its sub-policies, all equally likely, and does its operations
one after the other, each with its own probability and level. `config.data.augment` names one:

* "autoaugment", "autoaugment_svhn": AutoAugment's, found on CIFAR-10 and on SVHN;
* "randaugment:N,M": N operations at strength M, 0 … 30;
* "trivialaugment": one operation at any strength (the Wide variant);
* "fast_autoaugment_cifar10", "…_svhn", "…_imagenet": Fast AutoAugment's, as published;
* "fast_autoaugment:FILE.json": sub-policies in that form;
* "policy:FILE.json": your own, with levels in the operations' units.

In the place of a file there may be its contents, JSON that starts with "[" (see `resolve`).
docs/augmentation.md has the format.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lconv_jax.data import files
from lconv_jax.data.augmentation import operations, policy_sources
from lconv_jax.data.augmentation.policy_sources import Step, SubPolicies
from lconv_jax.errors import DataError

# The kinds of file, and what their operations fill with: Fast AutoAugment's as in its own code.
_FILLS = {
    "fast_autoaugment": operations.Fill(outside=(0,), cutout=(125, 123, 114)),
    "policy": operations.GREY,
}
_PUBLISHED = tuple(f"fast_autoaugment_{name}" for name in policy_sources.PUBLISHED)
ACCEPTED = (
    f"autoaugment, autoaugment_svhn, {', '.join(_PUBLISHED)}, randaugment:N,M, trivialaugment, "
    "fast_autoaugment:FILE.json or policy:FILE.json"
)
_MOST_OPERATIONS = 16
# Levels of a policy of one's own: the range that is accepted, and whether a sign is drawn.
_OWN_LEVELS = {
    **dict.fromkeys(("shear_x", "shear_y"), (0.0, 2.0, True)),
    **dict.fromkeys(("translate_x", "translate_y"), (0.0, 1.0, True)),
    "rotate": (0.0, 180.0, True),
    "cutout": (0.0, 1.0, False),
    "solarize": (0.0, 256.0, False),
    "posterize": (1.0, 8.0, False),
    **dict.fromkeys(policy_sources.FACTORS, (0.0, 10.0, False)),
}


class Policy(NamedTuple):
    """What is drawn for an image: `repeats` times, one of `sub_policies`, all equally likely."""

    sub_policies: SubPolicies
    repeats: int = 1
    fill: operations.Fill = operations.GREY

    @property
    def names(self) -> frozenset[str]:
        """The operations that occur."""
        return frozenset(
            step.operation for steps in self.sub_policies for step in steps if step.probability > 0
        )


class Tables(NamedTuple):
    """A policy as arrays [S, K]: K steps of each of S sub-policies, the last ones perhaps none."""

    operation: Any  # int32, an index into operations.NAMES, or −1
    probability: Any  # float32
    level: Any  # float32, as the operation takes it
    spread: Any  # float32


def load(name: str) -> Policy:
    """The policy of `config.data.augment`, which must not be empty.

    Raises:
      DataError: an unknown name; a file that is missing or at fault, with the sub-policy at fault.
    """
    base, _, rest = name.partition(":")
    if name in _PUBLISHED:
        text = policy_sources.published(name.removeprefix("fast_autoaugment_"))
        return Policy(
            _read("fast_autoaugment", name, json.loads(text)), fill=_FILLS["fast_autoaugment"]
        )
    if base in _FILLS and rest:
        return Policy(_read(base, *_parse(base, rest)), fill=_FILLS[base])
    if base == "randaugment" and rest:
        return _randaugment(name, rest)
    if name == "trivialaugment":
        return Policy(policy_sources.trivialaugment())
    if name == "autoaugment":
        return Policy(policy_sources.autoaugment(policy_sources.CIFAR10))
    if name == "autoaugment_svhn":
        return Policy(policy_sources.autoaugment(policy_sources.SVHN))
    raise DataError(f"data.augment = {name!r}: must be empty, or {ACCEPTED}")


def resolve(name: str) -> str:
    """The name with the contents of its file in the file's place, so that it says what is done.

    Names without a file, and those that are resolved already, stay as they are.

    Raises:
      DataError: as `load` does, of a policy with a file.
    """
    base, _, rest = name.partition(":")
    if base not in _FILLS or not rest:
        return name
    where, parsed = _parse(base, rest)
    _read(base, where, parsed)
    return f"{base}:{json.dumps(parsed, separators=(',', ':'))}"


def augment(key: jax.Array, images_BxHxWxC: jax.Array, policy: Policy) -> jax.Array:
    """Applies a policy, drawn for each image anew; pure, and usable inside `jit` and `vmap`.

    Args:
      key: a random key; it alone decides what is drawn.
      images_BxHxWxC: uint8 [B, H, W, C], C = 1 or 3.
      policy: of `load`.

    Returns:
      An array of the same shape and type. Memory beside it is a few times the batch.

    Raises:
      DataError: signals, images of another type, or of other than 1 or 3 channels.
    """
    shape = images_BxHxWxC.shape
    operations.check(shape, images_BxHxWxC.dtype, "data.augment")
    planes = operations.to_planes(images_BxHxWxC)
    planes = operations.apply(planes, *draw(key, shape, policy), policy.names, policy.fill)
    return operations.from_planes(planes)


def draw(
    key: jax.Array, shape: tuple[int, ...], policy: Policy
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a policy does with each image of a batch of this shape, in order.

    Returns:
      operation int32 [T, B], an index into `operations.NAMES` or −1; level float32 [T, B]; and a
      place float32 [T, B, 2] for cutout.
    """
    tables = make_tables(policy, shape)
    B, (S, K), repeats = shape[0], tables.operation.shape, policy.repeats
    which_key, step_key = jax.random.split(key)
    which = jax.random.randint(which_key, (repeats, B), 0, S)
    uniform = jax.random.uniform(step_key, (repeats * K, B, 4))
    # [repeats, B, K] to [repeats · K, B].
    operation, probability, level, spread = (
        jnp.moveaxis(jnp.asarray(table)[which], 2, 1).reshape(repeats * K, B) for table in tables
    )
    operation = jnp.where(uniform[..., 0] < probability, operation, -1)
    sign = jnp.where(uniform[..., 1] < 0.5, -1.0, 1.0)
    return operation, level + sign * spread, uniform[..., 2:]


def make_tables(policy: Policy, shape: tuple[int, ...]) -> Tables:
    """The policy's tables for images [B, H, W, C] of this shape, fractions of sides as pixels."""
    _, H, W, _ = shape
    side = {"translate_x": W, "translate_y": H, "cutout": W}
    longest = max(1, *(len(steps) for steps in policy.sub_policies))
    rows = [
        [
            (
                operations.NAMES.index(step.operation),
                step.probability,
                step.level * side.get(step.operation, 1),
                step.spread * side.get(step.operation, 1),
            )
            for step in steps
        ]
        + [(-1, 0.0, 0.0, 0.0)] * (longest - len(steps))
        for steps in policy.sub_policies
    ]
    columns = np.moveaxis(np.asarray(rows, np.float64), 2, 0)
    return Tables(columns[0].astype(np.int32), *columns[1:].astype(np.float32))


def _randaugment(name: str, text: str) -> Policy:
    try:
        count, magnitude = map(int, text.split(","))
    except ValueError:
        count = magnitude = -1
    most = policy_sources.RANDAUGMENT_BINS - 1
    if not (1 <= count <= _MOST_OPERATIONS and 0 <= magnitude <= most):
        raise DataError(
            f"data.augment = {name!r}: randaugment:N,M takes N, 1 … {_MOST_OPERATIONS} operations, "
            f"and their strength M, 0 … {most}"
        )
    return Policy(policy_sources.randaugment(magnitude), count)


def _parse(base: str, text: str) -> tuple[str, Any]:
    """What a message calls the file, and what it holds."""
    if text.lstrip().startswith("["):
        where = f"data.augment = {base}:[…]"
    else:
        path = files.place(text)
        where = f"data.augment: {path}"
        try:
            text = files.read_text(path, "Give a JSON file with a list of sub-policies")
        except DataError as error:
            raise DataError(f"data.augment: {error}") from error
    try:
        return where, json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is not JSON ({error}); it must be a list of sub-policies, each a list of "
            "[operation, probability, level]"
        ) from error


def _read(base: str, where: str, parsed: Any) -> SubPolicies:
    if not isinstance(parsed, list) or not parsed:
        raise DataError(
            f"{where} must be a list of sub-policies, at least one, each a list of [operation, "
            f"probability, level]; it is {_brief(parsed)}"
        )
    read_step = _fast_step if base == "fast_autoaugment" else _own_step
    sub_policies = []
    for number, steps in enumerate(parsed):
        at = f"{where}: sub-policy {number} (the first is 0)"
        if not isinstance(steps, list) or not 1 <= len(steps) <= _MOST_OPERATIONS:
            raise DataError(
                f"{at} must be a list of 1 … {_MOST_OPERATIONS} [operation, probability, level]; "
                f"it is {_brief(steps)}"
            )
        sub_policies.append([read_step(at, step) for step in steps])
    return sub_policies


def _fast_step(at: str, step: Any) -> Step:
    name, probability, level = _checked(at, step, tuple(policy_sources.FAST_AUTOAUGMENT))
    _check_number(at, step, "level", level, 0.0, 1.0)
    return policy_sources.fast_autoaugment_step(name, probability, level)


def _own_step(at: str, step: Any) -> Step:
    if isinstance(step, list) and len(step) == 2 and step[0] in tuple(operations.NO_LEVEL):
        step = [*step, 0]
    name, probability, level = _checked(at, step, operations.NAMES)
    if name in operations.NO_LEVEL:
        return Step(name, probability)
    low, high, signed = _OWN_LEVELS[name]
    _check_number(at, step, f"{name}'s level", level, low, high)
    return Step(name, probability, 0.0, level) if signed else Step(name, probability, level)


def _checked(at: str, step: Any, names: tuple[str, ...]) -> tuple[str, float, Any]:
    if not isinstance(step, list) or len(step) != 3:
        raise DataError(f"{at}: {_brief(step)} must be [operation, probability, level]")
    name, probability, level = step
    if name not in names:
        raise DataError(f"{at}: {_brief(step)}: the operation must be one of {', '.join(names)}")
    _check_number(at, step, "probability", probability, 0.0, 1.0)
    return name, float(probability), level


def _check_number(at: str, step: Any, what: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and low <= value <= high):
        raise DataError(f"{at}: {_brief(step)}: the {what} must be a number, {low:g} … {high:g}")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
