"""Options behind the name of a data set that is made to order: `nlgp:length=64,seed=3`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lconv_jax.data import limits
from lconv_jax.errors import DataError

# No option is meant for more, and products of a few stay within floating point.
_MOST = 2**64 - 1


def parse(name: str, defaults: Mapping[str, Any], of: str = "data.name") -> dict[str, Any]:
    """The options of `BASE:KEY=VALUE,…`, each of its default's type, defaults for the others.

    Args:
      name: with its options.
      defaults: of the options that there are.
      of: the key of the configuration that the name is the value of, for messages.

    Raises:
      DataError: an option that there is not, given twice, of another type, or an integer beyond
        ±(2⁶⁴ − 1).
    """
    base, _, text = name.partition(":")
    found: dict[str, Any] = {}
    for item in text.split(",") if text else ():
        key, equals, value = item.partition("=")
        if key in found:
            raise DataError(f"{of} = {name!r}: {key} is given twice; give it once")
        if not equals or key not in defaults:
            accepted = ", ".join(f"{key}={value}" for key, value in defaults.items())
            there = f"its options, comma-separated, and their defaults: {accepted or 'none'}"
            raise DataError(f"{of} = {name!r}: {item!r} is not an option of {base}; {there}")
        found[key] = _typed(f"{of} = {name!r}", key, value, type(defaults[key]))
    return {**defaults, **found}


def require(
    name: str,
    found: Mapping[str, Any],
    accepted: Mapping[str, tuple[bool, str]],
    of: str = "data.name",
) -> None:
    """Refuses the first option that is not as it must be.

    Args:
      name: with its options.
      found: the options.
      accepted: for some of them, whether the value is accepted, and what is.
      of: as in `parse`.

    Raises:
      DataError: one is not.
    """
    for key, (good, what) in accepted.items():
        if not good:
            raise DataError(f"{of} = {name!r}: {key} = {found[key]!r} must be {what}")


def at_least(found: Mapping[str, Any], lowest: Mapping[str, int]) -> dict[str, tuple[bool, str]]:
    """For `require`: options that must not be below a number."""
    return {key: (found[key] >= low, f"≥ {low}") for key, low in lowest.items()}


def require_memory(name: str, needed: float, keys: str) -> None:
    """Refuses options that ask for more than `limits.MADE_BYTES`.

    Args:
      name: the data set's, with its options.
      needed: bytes of the set's arrays, and of temporary memory while they are made.
      keys: the options that decide the size, for the message.

    Raises:
      DataError: it is more.
    """
    limits.require(
        f"data.name = {name!r}: the set with these options",
        needed,
        f"Lower {keys}",
        limits.MADE_BYTES,
    )


def _typed(where: str, key: str, value: str, kind: type) -> Any:
    try:
        typed = kind(value)
    except ValueError as error:
        raise DataError(f"{where}: {key} = {value!r} must be of type {kind.__name__}") from error
    if kind is int and abs(typed) > _MOST:
        raise DataError(f"{where}: {key} = {value} must be within ±(2⁶⁴ − 1)")
    return typed
