"""Results: logits become scores in float32, and thresholds, chunks and hierarchies are applied to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from gliclass_fast.text.abstention import Abstention
from gliclass_fast.text.hierarchy import build_hierarchical_output
from gliclass_fast.text.labels import Labels
from gliclass_fast.text.predictions import Prediction, best_first
from gliclass_fast.text.prompts import Request

LARGEST_EXPONENT = 88.0  # exp of a larger one overflows float32; the score is 6e-39 by then


@dataclass(frozen=True, slots=True)
class TextInfo:
    """Counts, for one text, the tokens that ran, those that the window left no room for, and the passes."""

    tokens: int
    tokens_cut: int
    passes: int


@dataclass(frozen=True, slots=True)
class Scores:
    """Holds one text's labels with their scores."""

    labels: Sequence[str]
    values: list[float]
    initial: list[float] | None = None  # before calibration, for models with a calibrator only

    def predictions(self, classification_type: str, threshold: float | list[float]) -> list[Prediction]:
        """Returns the best label for single-label, else the labels with score >= threshold, in their order.

        The scores before calibration are carried along as `initial_score`. A list has a threshold per label.
        """
        labels, values, initial = self.labels, self.values, self.initial
        if classification_type == "single-label":
            best = max(range(len(values)), key=values.__getitem__)
            labels, values, threshold = [labels[best]], [values[best]], float("-inf")
            initial = None if initial is None else [initial[best]]
        if isinstance(threshold, list):
            kept = [place for place, least in enumerate(threshold) if values[place] >= least]
            labels, values = [labels[place] for place in kept], [values[place] for place in kept]
            initial = None if initial is None else [initial[place] for place in kept]
            threshold = float("-inf")
        if initial is None:  # this is by far the most frequent, and most of the work per label
            pairs = zip(labels, values, strict=True)
            return [{"label": label, "score": score} for label, score in pairs if score >= threshold]
        return [
            {"label": label, "score": score, "initial_score": before}
            for label, score, before in zip(labels, values, initial, strict=True)
            if score >= threshold
        ]

    def hierarchical(self, structure: Any, found: Sequence[Prediction], separator: str) -> dict[str, Any]:
        """Returns every score in the shape of the labels that were given: {"topic": {"sport": 0.9, ...}}.

        A label that is given twice has the last score that was predicted, else the last score.
        """
        every = dict(zip(self.labels, self.values, strict=True))
        return build_hierarchical_output(found, structure, separator, every)


def scores_of(
    labels: Sequence[Sequence[str]], logits: Sequence[np.ndarray], types: Sequence[str]
) -> Iterator[Scores]:
    """Returns softmax ("single-label") or sigmoid ("multi-label") of every text's logits, in float32.

    A text's are made when they are asked for, as the numbers of Python take eight times the memory.
    logits: float32 [1, labels] per text, or [2, labels] with the uncalibrated ones second.
    """
    if not logits:
        return
    everything = np.concatenate(logits, axis=1, dtype=np.float32)
    sigmoids = 1 / (1 + np.exp(np.minimum(-everything, LARGEST_EXPONENT)))
    bounds = pairwise(accumulate(map(len, labels), initial=0))
    for own, kind, (start, end) in zip(labels, types, bounds, strict=True):
        if kind == "single-label":
            yield Scores(own, *(_softmax(row[start:end]) for row in everything))
        else:
            yield Scores(own, *sigmoids[:, start:end].tolist())


def _softmax(logits: np.ndarray) -> list[float]:
    exponentials = np.exp(logits - logits.max())
    scores: list[float] = (exponentials / exponentials.sum()).tolist()
    return scores


def merged(
    chunks: Sequence[Scores],
    classification_type: str,
    aggregate: Callable[[list[dict[str, float]], list[str]], Mapping[str, float]],
) -> Scores:
    """Returns one score of every label for the chunks of a text; single-label scores then sum to 1.

    The last score of a label that is given twice counts. aggregate: takes the scores of every chunk by label,
    and the labels.
    """
    by_chunk = [dict(zip(each.labels, each.values, strict=True)) for each in chunks]
    best = aggregate(by_chunk, list(chunks[0].labels))
    total = sum(best.values()) if classification_type == "single-label" else 1.0
    return Scores(list(best), [score / total if total > 0 else score for score in best.values()])


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """Holds a call's arguments, checked: the requests for an engine, and what becomes of their logits."""

    requests: list[Request]
    labels: list[Labels]
    types: list[str]  # "single-label" or "multi-label"
    thresholds: list[float | list[float]]  # a number, or one per label
    abstention: Abstention | None
    hierarchical: bool  # every score in the shape of the labels, not a list of predictions
    separator: str

    def scores(self, logits: Sequence[np.ndarray]) -> Iterator[Scores]:
        """Returns the scores of every text, of logits float32 [1 or 2, labels] per text."""
        return scores_of([each.names for each in self.labels], logits, self.types)

    def answers(self, logits: Sequence[np.ndarray]) -> list[Any]:
        """Returns what a call returns for every text, of logits float32 [1 or 2, labels] per text."""
        return [self.answer(place, each) for place, each in enumerate(self.scores(logits))]

    def answer(self, place: int, scores: Scores, by_score: bool = False) -> Any:
        """Returns what a call returns for the text at a place: its predictions, or all scores in a shape.

        by_score: orders predictions by their scores, the best first, not by the labels.
        """
        labels, kind, least = self.labels[place], self.types[place], self.thresholds[place]
        if isinstance(least, list) and len(least) > len(scores.labels):
            # the scores of chunks were merged, and a label that is given twice is there once
            by_label = dict(zip(labels.names, least, strict=True))
            least = [by_label[label] for label in scores.labels]
        found = scores.predictions(kind, least)
        if by_score:
            found = best_first(found)
        if self.hierarchical:
            return scores.hierarchical(labels.structure, found, self.separator)
        return found if self.abstention is None else self.abstention.apply(found, kind)
