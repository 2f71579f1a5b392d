"""Thresholds: the lowest score that counts, for all labels or for each, and for all texts or for each."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from gliclass_fast.text.containers import per_text, plain_string
from gliclass_fast.text.errors import WrongType, WrongValue
from gliclass_fast.text.labels import refuse_unknown

DEFAULT = 0.5
Threshold = float | list[float]  # for all labels of a text, or one per label


def thresholds_per_text(threshold: Any, names: Sequence[tuple[str, ...]]) -> list[Threshold]:
    """Returns the threshold of every text.

    A dict by label may stand in place of a number; labels that it does not name have DEFAULT.

    names: the labels of every text.
    """
    if isinstance(threshold, Mapping):
        shared = _by_label(threshold, "threshold")
        refuse_unknown(shared, names, "threshold")
        of = {own: [shared.get(name, DEFAULT) for name in own] for own in dict.fromkeys(names)}
        return [of[own] for own in names]
    found: list[Threshold] = []
    values = per_text(threshold, len(names), "threshold", _is_one)
    for index, (value, own) in enumerate(zip(values, names, strict=True)):
        if isinstance(value, Mapping):
            by_label = _by_label(value, f"threshold[{index}]")
            refuse_unknown(by_label, [own], f"threshold[{index}]")
            found.append([by_label.get(name, DEFAULT) for name in own])
        else:
            found.append(score_between_0_and_1(value, "threshold", f" for text {index}"))
    return found


def score_between_0_and_1(value: Any, name: str, where: str = "") -> float:
    """Returns a float, also of NumPy's numbers; raises WrongType, or WrongValue outside [0, 1]."""
    if getattr(value, "ndim", None) == 0:  # an array or a tensor that holds one number
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise WrongType(f"{name} must be a number, got {type(value).__name__}{where}")
    if not 0 <= float(value) <= 1:
        raise WrongValue(f"{name} must be between 0 and 1, got {value}{where}")
    return float(value)


def _is_one(value: Any) -> bool:
    return isinstance(value, (numbers.Real, str)) or value is None or getattr(value, "ndim", None) == 0


def _by_label(threshold: Mapping[Any, Any], name: str) -> dict[str, float]:
    return {
        plain_string(label, f"a label of {name}"): score_between_0_and_1(value, f"{name}[{label!r}]")
        for label, value in threshold.items()
    }
