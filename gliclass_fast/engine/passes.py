"""Passes: groups of labels that are scored at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gliclass_fast.text.prompts import Request
from gliclass_fast.text.readers import Reader

Size = int | Literal["auto"]
LabelsPerPass = Size | None


def split(request: Request, labels_per_pass: Size, reader: Reader, window: int) -> list[Request]:
    """Returns a request per group of at most so many labels; "auto": as many as leave half the window."""
    if labels_per_pass == "auto":
        groups = _fitting_groups(request.labels, reader, window)
    else:
        steps = range(0, len(request.labels), labels_per_pass)
        groups = [request.labels[start : start + labels_per_pass] for start in steps]
    return [replace(request, labels=group) for group in groups]


def _fitting_groups(labels: tuple[str, ...], reader: Reader, window: int) -> list[tuple[str, ...]]:
    budget = reader.label_budget(window)
    groups: list[tuple[str, ...]] = []
    start = used = 0
    for index, tokens in enumerate(reader.label_tokens(labels)):
        if used + tokens > budget and index > start:
            groups.append(labels[start:index])
            start, used = index, 0
        used += tokens
    return [*groups, labels[start:]]
