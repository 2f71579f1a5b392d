"""Permutations: the mean over several orders of the labels, so that their order does not count.

A model reads the labels one after another, and its scores depend a little on who stands where. The orders
here start from the sorted labels, so they do not depend on the order that a caller gave: rotations, each
followed by its reverse. A rotation and its reverse together give every label the same mean place. Two labels
with the same text cannot be told apart, so both get the mean of their logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gliclass_fast.text.prompts import Request

if TYPE_CHECKING:
    from gliclass_fast.engine.engine import Engine
    from gliclass_fast.engine.scored import Scored


def orders(labels: Sequence[str], count: int) -> list[tuple[int, ...]]:
    """Returns at most `count` different orders of the labels, as places in the given list.

    They depend on the set of labels and on `count`, which is at least 2.
    """
    by_name = sorted(range(len(labels)), key=labels.__getitem__)
    count = min(count, 4 * len(labels))  # which has every rotation with its reverse: a larger one adds none
    rotations = (count + 1) // 2
    found: list[tuple[int, ...]] = []
    for turn in range(rotations):
        start = turn * len(labels) // rotations
        order = (*by_name[start:], *by_name[:start])
        found += [order, order[::-1]]
    return list(dict.fromkeys(found[:count]))


def in_orders(request: Request, count: int) -> list[Request]:
    """Returns a request per order of its labels, at most `count`."""
    return [_reordered(request, order) for order in orders(request.labels, count)]


def _reordered(request: Request, order: tuple[int, ...]) -> Request:
    return replace(request, labels=tuple(request.labels[place] for place in order))


def score_in_orders(
    engine: Engine, count: int, requests: Sequence[Request], numbers: Sequence[int], **options: Any
) -> list[Scored]:
    """Returns what `engine.score` does, with the mean of the logits over `count` orders of the labels.

    numbers: the number that messages give to the text of each request. options: those of `engine.score`.
    """
    of = {labels: orders(labels, count) for labels in {request.labels for request in requests}}
    rows = [(place, order) for place, request in enumerate(requests) for order in of[request.labels]]
    reordered = [_reordered(requests[place], order) for place, order in rows]
    scored = engine.score(reordered, numbers=[numbers[place] for place, _ in rows], **options)
    passes: list[list[Scored]] = [[] for _ in requests]
    for (place, order), each in zip(rows, scored, strict=True):
        passes[place].append(replace(each, logits=each.logits[:, np.argsort(order)]))
    return [_mean(request.labels, each) for request, each in zip(requests, passes, strict=True)]


def _mean(labels: Sequence[str], scored: list[Scored]) -> Scored:
    logits: np.ndarray = np.stack([each.logits for each in scored]).mean(axis=0, dtype=np.float64)
    if len(set(labels)) < len(labels):
        of: dict[str, list[int]] = {}
        for place, label in enumerate(labels):
            of.setdefault(label, []).append(place)
        for places in of.values():
            logits[:, places] = logits[:, places].mean(axis=1, keepdims=True)
    return replace(
        scored[0],
        logits=logits.astype(np.float32),
        tokens=sum(each.tokens for each in scored),
        tokens_cut=max(each.tokens_cut for each in scored),
        passes=sum(each.passes for each in scored),
    )
