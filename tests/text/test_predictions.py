"""Predictions and their order."""

from __future__ import annotations

from gliclass_fast.text.predictions import best_first


def test_the_best_come_first_and_ties_keep_their_order() -> None:
    scores = {"a": 0.2, "b": 0.7, "c": 0.2, "d": 0.7}
    found = best_first({"label": label, "score": score} for label, score in scores.items())
    assert [each["label"] for each in found] == ["b", "d", "a", "c"]
