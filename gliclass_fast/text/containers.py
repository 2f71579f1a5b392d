"""Containers: columns, arrays, iterators and subclasses of strings become plain lists, strings and numbers.

Every prompt and every key of a cache is made of what these functions return. A member of a `(str, Enum)` is
its value here, as an f-string of it would say `Topic.SPORT`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gliclass_fast.text.errors import WrongType, WrongValue

BYTES = (bytes, bytearray, memoryview)
CONVERSIONS = ("to_pylist", "tolist", "to_list")  # of pyarrow, of NumPy and pandas, of polars


def plain_string(value: Any, name: str) -> str:
    """Returns a string of the type `str` itself; raises WrongType, or WrongValue where it is not Unicode."""
    if not isinstance(value, str):
        hint = ": decode it first" if isinstance(value, BYTES) else ""
        raise WrongType(f"{name} must be a string, got {type(value).__name__}{hint}")
    plain = str.__str__(value)
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise WrongValue(f"{name} is not valid text: {error.reason} at position {error.start}") from None
    return plain


def plain_strings(values: Iterable[Any], name: str, first: int = 0) -> list[str]:
    """Returns `plain_string` of every value; messages count them from `first`."""
    return [
        value if type(value) is str and value.isascii() else plain_string(value, f"{name}[{index}]")
        for index, value in enumerate(values, first)
    ]


def as_list(values: Any, name: str, wanted: str) -> list[Any]:
    """Returns the values of a list, tuple, array, column, iterator or other iterable as a list.

    Raises WrongType, which says what is `wanted`, for anything else: a set has no order that a caller could
    know, and a table has several columns.
    """
    if isinstance(values, list):
        return values
    if isinstance(values, (set, frozenset)):
        raise WrongType(f"{name} is a set, whose order nobody knows: give a list")
    if hasattr(values, "columns"):
        raise WrongType(f"{name} is a table ({type(values).__name__}): give one of its columns")
    found = _listed(values)
    if isinstance(found, list):
        return found
    hint = ": decode them first" if isinstance(values, BYTES) else ""
    raise WrongType(f"{name} must be {wanted}, got {type(values).__name__}{hint}")


def _listed(values: Any) -> Any:
    for method in CONVERSIONS:
        if callable(convert := getattr(values, method, None)):
            return convert()
    if isinstance(values, (str, Mapping, *BYTES)):
        return None
    try:
        return list(iter(values))
    except TypeError:
        return None


def per_text(value: Any, count: int, name: str, one: Callable[[Any], bool]) -> list[Any]:
    """Returns an entry per text, where `one` says whether the value is a single one that all texts share."""
    if one(value):
        return [value] * count
    entries = as_list(value, name, "one for all texts, or a list of them,")
    if len(entries) != count:
        raise WrongValue(f"{name} has one entry per text, so it needs {count}; got {len(entries)}")
    return entries


def whole_number(value: Any, name: str, least: int = 1) -> int:
    """Returns an int, also of NumPy's; raises WrongType, or WrongValue below `least`."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise WrongType(f"{name} must be a whole number, got {value!r}") from None
    if number < least:
        raise WrongValue(f"{name} must be at least {least}, got {number}")
    return number
