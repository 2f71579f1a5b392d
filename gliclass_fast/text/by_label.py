"""Values that a caller gives by label, {label: value}."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from gliclass_fast.text.errors import WrongValue

Value = TypeVar("Value")


def refuse_unknown(given: Mapping[str, Any], names: Sequence[tuple[str, ...]], argument: str) -> None:
    """Raises WrongValue where an argument has a label that no text has; names: the labels of every text."""
    known = {name for own in dict.fromkeys(names) for name in own}
    if names and (unknown := [name for name in given if name not in known]):
        raise WrongValue(
            f"{argument} has {unknown[0]!r}, which is no label; the labels are {sorted(known)[:20]}"
        )


def aligned(given: Mapping[str, Value], names: tuple[str, ...], default: Value) -> list[Value]:
    """Returns a value for every label, in their order."""
    return [given.get(name, default) for name in names]
