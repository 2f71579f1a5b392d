"""The values of a configuration's keys: what type each must have, how a command line writes it, its bounds.

Types are those of Python's annotations, as `int`, `str | None` and `list[int]`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import NoneType
from typing import Any, get_args, get_origin

from gliclass_fast.serving.config_keys import CHOICES, LEAST_AND_MOST
from gliclass_fast.text.errors import WrongType, WrongValue

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def checked(key: str, value: Any, annotation: Any) -> Any:
    """Returns a value of the type that its key asks for; an integer is a float where one is asked for.

    Raises WrongType, or WrongValue where the value is not among the choices or outside the bounds.
    """
    for kind in _alternatives(annotation):
        if get_origin(kind) is list:
            (item,) = get_args(kind)
            if isinstance(value, (list, tuple)) and all(type(each) is item for each in value):
                return list(value)
        elif kind is float and type(value) in (int, float):
            value = float(value)
            break
        elif type(value) is kind:  # a bool is no int here
            break
    else:
        raise WrongType(f"{key} must be {_named(annotation)}, not {type(value).__name__}: {value!r}")
    if key in CHOICES and value not in CHOICES[key]:
        raise WrongValue(f"{key} must be one of {', '.join(map(repr, CHOICES[key]))}, not {value!r}")
    least, most = LEAST_AND_MOST.get(key, (float("-inf"), float("inf")))
    if isinstance(value, (int, float)) and not least <= value <= most:  # neither is NaN
        bounds = f"at least {least}" if most == float("inf") else f"from {least} to {most}"
        raise WrongValue(f"{key} must be {bounds}, not {value!r}")
    return value


def from_text(key: str, text: str, annotation: Any) -> Any:
    """Reads what a command line gives for a key; lists are separated by commas, and "none" is None.

    Raises WrongType for a text that stands for no value of the key's type.
    """
    kinds = _alternatives(annotation)
    if NoneType in kinds and text.lower() in ("none", "null", ""):
        return None
    for kind in (int, float, bool, str):  # the narrowest first: "50" of `str | int` is a number
        for each in kinds:
            try:
                if each is kind:
                    return _flag(text) if kind is bool else kind(text)
                if get_origin(each) is list and get_args(each) == (kind,):
                    return [kind(item.strip()) for item in text.split(",") if item.strip()]
            except ValueError:
                continue
    raise WrongType(f"{key} must be {_named(annotation)}, not {text!r}")


def unknown(name: str, known: Iterable[str], kind: str = "key") -> WrongValue:
    """Returns the error of a key or an option that does not exist, with the nearest one if any is near."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; the nearest known one is {nearest[0]!r}" if nearest else ""
    return WrongValue(f"unknown {kind} {name!r}{hint}")


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) in (None, list) else get_args(annotation)


def _named(annotation: Any) -> str:
    names = [
        f"list of {get_args(kind)[0].__name__}" if get_origin(kind) is list else kind.__name__
        for kind in _alternatives(annotation)
    ]
    return " or ".join(names).replace("NoneType", "None")


def _flag(text: str) -> bool:
    if text.lower() not in (*_TRUE, *_FALSE):
        raise ValueError(text)
    return text.lower() in _TRUE
