"""Values of Python as those of JSON, for a call that takes what the pipeline takes and a body does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gliclass_fast.text.arguments import converted


def plain_arguments(*, multi_label: Any, **others: Any) -> dict[str, Any]:
    """Returns the arguments of a call by name, with `as_json` of every value and `flags` of multi_label."""
    return {"multi_label": flags(multi_label), **{name: as_json(value) for name, value in others.items()}}


def as_json(value: Any) -> Any:
    """Returns a value in which tuples, arrays and columns are lists, however deep they are."""
    if (plain := converted(value)) is not value:
        return as_json(plain)
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, (list, tuple)) else value


def flags(value: Any) -> Any:
    """Returns a flag, or a list of them, in which 1 and 0 are True and False."""
    plain = as_json(value)
    if isinstance(plain, list):
        return [flags(each) for each in plain]
    return bool(plain) if isinstance(plain, int) and plain in (0, 1) else plain
