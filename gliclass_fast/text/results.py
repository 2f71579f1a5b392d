"""Logits -> results: scores in float32, thresholds, single- and multi-label, hierarchies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

LARGEST_EXPONENT = 88.0  # exp of more overflows float32; the score is 6e-39 by then
Prediction = dict[str, Any]


def scores_of(logits: Sequence[np.ndarray], types: Sequence[str]) -> list[list[float]]:
    """Softmax ("single-label") or sigmoid ("multi-label") of every text's logits [labels], in float32."""
    if not logits:
        return []
    everything = np.concatenate(logits, dtype=np.float32)
    sigmoids = (1 / (1 + np.exp(np.minimum(-everything, LARGEST_EXPONENT)))).tolist()
    bounds = pairwise(accumulate(map(len, logits), initial=0))
    return [
        _softmax(everything[start:end]) if kind == "single-label" else sigmoids[start:end]
        for kind, (start, end) in zip(types, bounds, strict=True)
    ]


def _softmax(logits: np.ndarray) -> list[float]:
    exponentials = np.exp(logits - logits.max())
    scores: list[float] = (exponentials / exponentials.sum()).tolist()
    return scores


def predictions_of(
    labels: Sequence[str],
    scores: Sequence[float],
    classification_type: str,
    threshold: float,
    initial_scores: Sequence[float] | None = None,
) -> list[Prediction]:
    """Single-label: the best label alone. Multi-label: those with score >= threshold, in the order of the
    labels.

    initial_scores: a calibrated model's scores before calibration, carried along as `initial_score`.
    """
    if classification_type == "single-label":
        best = max(range(len(scores)), key=scores.__getitem__)
        labels, scores, threshold = [labels[best]], [scores[best]], float("-inf")
        initial_scores = None if initial_scores is None else [initial_scores[best]]
    if initial_scores is None:  # by far the most frequent, and most of what is left to do per label
        pairs = zip(labels, scores, strict=True)
        return [{"label": label, "score": score} for label, score in pairs if score >= threshold]
    return [
        {"label": label, "score": score, "initial_score": before}
        for label, score, before in zip(labels, scores, initial_scores, strict=True)
        if score >= threshold
    ]


def hierarchical(
    structure: Any,
    labels: Sequence[str],
    scores: Sequence[float],
    found: Sequence[Prediction],
    separator: str,
) -> dict[str, Any]:
    """Every label's score in the shape of the labels the caller gave: {"topic": {"sport": 0.9, ...}}.

    Of a label given twice the last predicted score counts, else the last score.
    """
    by_label = dict(zip(labels, scores, strict=True)) | {each["label"]: each["score"] for each in found}

    def shaped(part: Any, prefix: str) -> dict[str, Any]:
        if isinstance(part, dict):
            return {key: shaped(value, f"{prefix}{key}{separator}") for key, value in part.items()}
        return {name: by_label[prefix + name] for name in ([part] if isinstance(part, str) else part)}

    return shaped(structure, "")


def highest_over_chunks(chunks: Sequence[Sequence[float]], labels: Sequence[str]) -> dict[str, float]:
    """The best score of every label over the chunks of one text; of a label given twice the last counts."""
    by_chunk = [dict(zip(labels, scores, strict=True)) for scores in chunks]
    return {label: max(scores[label] for scores in by_chunk) for label in labels}
