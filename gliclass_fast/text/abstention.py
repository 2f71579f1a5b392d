"""Abstention: in single-label mode a best label that scores too low is no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gliclass_fast.text.arguments import plain_string, score_between_0_and_1
from gliclass_fast.text.errors import WrongValue
from gliclass_fast.text.predictions import Prediction


@dataclass(frozen=True, slots=True)
class Abstention:
    """Holds the lowest score that counts as an answer, and what stands in the results in its place."""

    min_score: float
    none_label: str | None

    @classmethod
    def checked(cls, min_score: Any, none_label: Any, types: Sequence[str]) -> Abstention:
        """Makes it of arguments, for texts of these classification types; raises ArgumentError."""
        if min_score is None:
            raise WrongValue("none_label stands for scores below min_score: give min_score too")
        if types and "single-label" not in types:
            raise WrongValue("min_score is for single-label; multi-label has threshold")
        label = None if none_label is None else plain_string(none_label, "none_label")
        return cls(score_between_0_and_1(min_score, "min_score"), label)

    def apply(self, found: list[Prediction], classification_type: str) -> list[Prediction]:
        """Returns the predictions of one text, or in their place none, or `none_label` with the score."""
        if classification_type != "single-label" or found[0]["score"] >= self.min_score:
            return found
        return [] if self.none_label is None else [found[0] | {"label": self.none_label}]
