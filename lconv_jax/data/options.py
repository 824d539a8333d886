"""Options of a data set that is made to order, written behind its name: `nlgp:length=64,seed=3`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lconv_jax.data.records import DataError


def parse(name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `BASE:KEY=VALUE,…`, each of its default's type, defaults for the others.

    Raises:
      DataError: an option that there is not, given twice, or of another type.
    """
    base, _, text = name.partition(":")
    found: dict[str, Any] = {}
    for item in text.split(",") if text else ():
        key, equals, value = item.partition("=")
        if key in found:
            raise DataError(f"data.name = {name!r}: {key} is given twice; give it once")
        if not equals or key not in defaults:
            accepted = ", ".join(f"{key}={value}" for key, value in defaults.items())
            raise DataError(
                f"data.name = {name!r}: {item!r} is not an option of {base}; its options, "
                f"comma-separated, and their defaults: {accepted}"
            )
        found[key] = _typed(name, key, value, type(defaults[key]))
    return {**defaults, **found}


def require(name: str, found: Mapping[str, Any], accepted: Mapping[str, tuple[bool, str]]) -> None:
    """Refuses the first option that is not as it must be.

    Args:
      name: the data set's, with its options.
      found: the options.
      accepted: for some of them, whether the value is accepted, and what is.

    Raises:
      DataError: one is not.
    """
    for key, (good, what) in accepted.items():
        if not good:
            raise DataError(f"data.name = {name!r}: {key} = {found[key]!r} must be {what}")


def at_least(found: Mapping[str, Any], lowest: Mapping[str, int]) -> dict[str, tuple[bool, str]]:
    """For `require`: options that must not be below a number."""
    return {key: (found[key] >= low, f"≥ {low}") for key, low in lowest.items()}


def _typed(name: str, key: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise DataError(
            f"data.name = {name!r}: {key} = {value!r} must be of type {kind.__name__}"
        ) from error
