"""What must hold of every request: documented errors, finite scores, and a text scores as it does alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from gliclass_fast.text.errors import ArgumentError
from tests.accuracy import ALONE_TOLERANCE
from tools.fuzzing.kinds import CHUNKING, ROUNDED, pipeline

ROUNDED_TOLERANCE = 0.1  # of scores in 16 bit or int8, where a value falls to either side of a step
_NOT_OF_CHUNKING = (
    "classification_type",
    "labels_per_pass",
    "label_permutations",
    "on_truncation",
    "min_score",
    "none_label",
)


class Fault(AssertionError):
    """Reports what a request must not meet."""


def fitting(kind: str, request: dict[str, Any]) -> dict[str, Any]:
    """Returns a request without the arguments that the pipeline of a kind never takes."""
    left_out: Sequence[str] = ("prompt", "examples") if kind.startswith("GliZNet") else ()
    if kind == CHUNKING:
        left_out = _NOT_OF_CHUNKING
    return {name: value for name, value in request.items() if name not in left_out}


def check(kind: str, request: dict[str, Any], each: Callable[..., Iterable[Any]] = map) -> int:
    """Puts a request to the pipeline of a kind, together and text by text; returns how many calls it took.

    each: a `map` for the calls with one text, such as that of a pool of threads. Raises Fault where something
    does not hold, and what a call raises where that is not documented.
    """
    request = fitting(kind, request)
    together = _answer(kind, request)
    alone = list(each(lambda text: _answer(kind, {**request, "texts": text}), request["texts"]))
    if together is None:
        if None not in alone:
            raise Fault("texts that raise nothing alone raise an error together")
        return 1 + len(alone)
    if None in alone:
        raise Fault("a text that raises an error alone raises none together")
    if len(together) != len(alone):
        raise Fault(f"{len(together)} results of {len(alone)} texts")
    within = ROUNDED_TOLERANCE if kind in ROUNDED else ALONE_TOLERANCE
    names = set(_names(pipeline(kind), request))
    for found, (single,) in zip(together, alone, strict=True):
        _compare(found, single, request.get("classification_type") != "single-label", names, within)
    return 1 + len(alone)


def _answer(kind: str, request: dict[str, Any]) -> Any:
    """Returns the results of a call, or None for an error that the call documents."""
    try:
        return pipeline(kind)(**{"threshold": 0.0, **request})
    except ArgumentError as error:
        if not isinstance(error, (ValueError, TypeError)) or not str(error):
            raise Fault(f"an error of an unknown kind or without words: {error!r}") from error
        return None


def _names(ours: Any, request: dict[str, Any]) -> Iterator[str]:
    labels = request["labels"]
    described = isinstance(labels, dict) and all(isinstance(each, str) for each in labels.values())
    yield from labels if described else ours.flatten_labels(labels)
    if "none_label" in request:
        yield request["none_label"]


def _compare(found: Any, single: Any, multi: bool, names: set[str], within: float) -> None:
    for each in (*found, *single):
        if not (math.isfinite(each["score"]) and 0 <= each["score"] <= 1):
            raise Fault(f"a score is {each['score']}")
        if each["label"] not in names:
            raise Fault(f"a label that was not given: {each['label']!r}")
    # best labels may be ties, which rounding decides; the scores of both are the same then
    if multi and [each["label"] for each in found] != [each["label"] for each in single]:
        raise Fault("alone, a text has other labels, or another order")
    for one, other in zip(found, single, strict=True):
        if abs(one["score"] - other["score"]) > within:
            raise Fault(f"a text scores {one['score']} in its batch and {other['score']} alone")
