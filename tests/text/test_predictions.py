"""Predictions and their order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gliclass_fast.text.predictions import best_first
from gliclass_fast.text.results import scores_of


def test_the_best_come_first_and_ties_keep_their_order() -> None:
    scores = {"a": 0.2, "b": 0.7, "c": 0.2, "d": 0.7}
    found = best_first({"label": label, "score": score} for label, score in scores.items())
    assert [each["label"] for each in found] == ["b", "d", "a", "c"]


@pytest.mark.parametrize("kind", ["single-label", "multi-label"])
def test_scores_take_memory_for_one_text_at_a_time(kind: str) -> None:
    """As numbers of Python, those of all texts would take eight times the memory of the logits."""
    labels, texts = [str(number) for number in range(1000)], 300
    logits = [np.random.randn(1, len(labels)).astype(np.float32) for _ in range(texts)]
    tracemalloc.start()
    highest = [max(each.values) for each in scores_of([labels] * texts, logits, [kind] * texts)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * sum(each.nbytes for each in logits)
    assert len(highest) == texts
