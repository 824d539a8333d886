"""JSON that programs keep: what does not read back is named by file and line, with a remedy."""

from __future__ import annotations

import json
import os
from typing import Any

from lconv_jax.errors import StoredError
from lconv_jax.host import places

_NAMES = {dict: "an object", list: "a list", str: "a text", int: "an integer", float: "a number"}


def read(path: str | os.PathLike[str], form: Any, remedy: str) -> Any:
    """What a JSON file holds.

    Args:
      path: of a file that is there.
      form: what it must hold: one of the types dict, list, str, int and float; a mapping from
        names that an object must have to the forms of their values, or from `str` to the form of
        all its values; or a list of one form, that of all elements. An integer is a number, too.
      remedy: what to do about a file that does not read back; the end of the error's sentence.

    Raises:
      StoredError: it is no JSON, or of another form.
      ConfigError: it is no regular file.
      OSError: it cannot be read now.
    """
    text = places.read(path)
    try:
        found = json.loads(text)
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise StoredError(f"{path}, line {line}: bytes that are no UTF-8; {remedy}") from None
    except json.JSONDecodeError as error:
        raise StoredError(
            f"{path}, line {error.lineno}: this is no JSON ({error.msg}); {remedy}"
        ) from None
    except (ValueError, RecursionError) as error:  # numbers and nesting beyond Python's limits
        raise StoredError(f"{path}: this cannot be read ({error}); {remedy}") from None
    if differs := _difference(found, form, ""):
        raise StoredError(f"{path}: {differs}; {remedy}")
    return found


def _difference(value: Any, form: Any, where: str) -> str:
    """How a value differs from a form, in words; nothing if it does not."""
    kind = type(form) if isinstance(form, (dict, list)) else form
    accepted: Any = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind in (int, float)):
        return f"{where or 'it'} must be {_NAMES[kind]}"
    inside: list[tuple[Any, Any]] = []
    if isinstance(form, list):
        inside = [(index, form[0]) for index in range(len(value))]
    for name, each in form.items() if isinstance(form, dict) else ():
        if name is str:
            inside += [(key, each) for key in value]
        elif name in value:
            inside.append((name, each))
        else:
            return f"{where or 'it'} has no {name!r}"
    found = (_difference(value[key], each, f"{where}[{key!r}]") for key, each in inside)
    return next(filter(None, found), "")
