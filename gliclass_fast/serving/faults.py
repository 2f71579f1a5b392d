"""The faults of a body: what pydantic found becomes a sentence for each field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from gliclass_fast.serving.errors import MOST_NAMED

MOST_READ = 4 * MOST_NAMED  # errors: a field has one for each part of its union
# {pydantic's type of an error: what the value must be}
_KINDS = {
    "string_type": "a string", "list_type": "a list", "dict_type": "an object", "model_type": "an object",
    "model_attributes_type": "an object", "float_type": "a number", "int_type": "a whole number",
    "bool_type": "true or false",
}  # fmt: skip
# for a value of the right kind, with the bound that pydantic names
_BOUNDS = {
    "less_than_equal": "at most {le:g}", "greater_than_equal": "at least {ge:g}",
    "finite_number": "a finite number", "literal_error": "{expected}",
    "string_too_long": "at most {max_length} characters long",
}  # fmt: skip
# how pydantic names a part of a union, behind the field
_PART = re.compile(r"(str|bool|int|float|constrained-\w+|(list|dict|literal)\[.*\])")


def faults(errors: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields what is wrong with a body, of pydantic's errors, whose places begin in the body.

    A value that fits no part of a union has an error for each part. The entries of a list say more than the
    list, and a bound says more than the kinds that the value is not of. Only the first MOST_READ errors are
    looked at.
    """
    found: dict[tuple[int | str, ...], list[Mapping[str, Any]]] = {}
    for error in islice(errors, MOST_READ):
        place = tuple(each for n, each in enumerate(error["loc"]) if not (n and _PART.fullmatch(str(each))))
        found.setdefault(place, []).append(error)
    for place, own in found.items():
        if any(len(other) > len(place) and other[: len(place)] == place for other in found):
            continue
        yield _sentence(place, own)


def _sentence(place: tuple[int | str, ...], errors: list[Mapping[str, Any]]) -> str:
    name = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in place).lstrip(".")
    name = name or "the body"
    first = errors[0]
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "extra_forbidden":
        return f"{name} is no field of this request"
    bounds = [
        _BOUNDS[each["type"]].format(**each.get("ctx", {})) for each in errors if each["type"] in _BOUNDS
    ]
    wanted = bounds or [_KINDS[each["type"]] for each in errors if each["type"] in _KINDS]
    if not wanted:
        return f"{name}: {first['msg']}"
    *before, last = dict.fromkeys(wanted)
    return f"{name} must be {', '.join(before)}{' or ' if before else ''}{last}"
