"""Predictions: labels with their scores, and their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, TypeVar

Prediction = dict[str, Any]  # {"label": str, "score": float}, and what some models add
Scored = TypeVar("Scored", bound=Mapping[str, Any])


def best_first(scored: Iterable[Scored]) -> list[Scored]:
    """Returns what has a "score", the highest first; what has the same score keeps its order."""
    return sorted(scored, key=itemgetter("score"), reverse=True)
