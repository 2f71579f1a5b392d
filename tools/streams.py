"""Streams that last: very many chunks of sessions that come, go and wait; then each is told again alone.

A session has a window, counts tokens, or neither. It may be deleted, and its name begins a new life. Some
calls fail. What a chunk says follows from its session, its life and its number, so nothing of it has to be
kept while memory is measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gliclass_fast import streaming
from tests.streaming.scripts import streaming as new_pipeline

KEPT, MOST_TOGETHER = 64, 8  # tokens of a session; sessions of a call
LABELS = ("sport", "art", "news", "x")
WORDS = (*LABELS, "a", "much", "rain", "<<LABEL>>", "never", "of", "été", "<<SEP>>")
STRATEGIES = (None, streaming.SlidingWindowStrategy(24), streaming.EveryNTokensStrategy(20))
DELETED, FAILING = 0.1, 0.1  # of all calls
WITHIN = 1e-6


class Failing(streaming.EveryChunkStrategy):
    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        raise RuntimeError("the last session of a call fails")


def chunk_of(session: int, life: int, number: int) -> tuple[str, list[str]]:
    """Returns a text of at most 40 tokens, and labels."""
    chance = Random(f"{session} {life} {number}")
    text = " ".join(chance.choices(WORDS, k=chance.randint(0, 4)))
    return text, list(LABELS[: chance.randint(1, len(LABELS))])


def tell(pipeline: Any, told: list[tuple[int, int, int]]) -> Iterator[np.ndarray]:
    """Makes a call of (session, life, number) triples; yields scores, NaN where there are none."""
    texts, labels = map(list, zip(*(chunk_of(*each) for each in told), strict=True))
    strategies = [STRATEGIES[session % len(STRATEGIES)] for session, _, _ in told]
    given = [each or streaming.EveryChunkStrategy() for each in strategies]
    names = [str(session) for session, _, _ in told]
    for answer in pipeline(texts, labels, session_ids=names, threshold=0.0, strategies=given):
        scores = np.full(len(LABELS), np.nan)
        for found in answer["predictions"] or ():
            scores[LABELS.index(found["label"])] = found["score"]
        yield scores


def resident() -> float:
    """Returns the resident memory of this process, MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(sessions: int, chunks: int) -> tuple[list[float], dict[str, Any]]:
    """Returns the memory at a thousand moments, and what was found."""
    pipeline = new_pipeline(drop_absent=False, max_cache_len=KEPT)
    chance, lives, numbers = Random(0), [0] * sessions, [0] * sessions
    log, scores = np.full((chunks, 3), -1), np.full((chunks, len(LABELS)), np.nan)  # all of it resident
    done = failed = deleted = pages = 0
    seen: list[float] = []
    while done < chunks:
        together = min(chance.randint(1, MOST_TOGETHER), sessions, chunks - done)
        called = chance.sample(range(sessions), together)
        if chance.random() < DELETED:
            deleted += bool(pipeline.delete_session(str(called[0])))
            lives[called[0]], numbers[called[0]] = lives[called[0]] + 1, 0
        if chance.random() < FAILING:
            failed += fails(pipeline, called)
        told = [(session, lives[session], numbers[session]) for session in called]
        for each, found in zip(told, tell(pipeline, told), strict=True):
            log[done], scores[done] = each, found
            numbers[each[0]] += 1
            done += 1
        pages = max(pages, pipeline.sessions.pool.used_pages)
        if done * 1000 // chunks > len(seen):
            seen.append(resident())
    difference, wrong = told_alone(log, scores)
    return seen, {
        "sessions": sessions, "chunks": chunks, "sessions deleted": deleted, "calls that failed": failed,
        "most pages in use": pages, "answers that differ": wrong, "largest difference": difference,
    }  # fmt: skip


def fails(pipeline: Any, called: list[int]) -> bool:
    """Appends to sessions in a call whose last one fails."""
    names = [*map(str, called), "fails"]
    strategies = [streaming.EveryChunkStrategy()] * len(called) + [Failing()]
    try:
        pipeline(["lost"] * len(names), list(LABELS), session_ids=names, strategies=strategies)
    except RuntimeError:
        return True
    return False


def told_alone(log: np.ndarray, scores: np.ndarray) -> tuple[float, int]:
    """Tells every life again, in a pipeline where it is alone; returns the largest difference, and how many.

    An answer that comes in one of the two alone differs, as a missing score is NaN.
    """
    order = np.lexsort(log.T[::-1])  # by session, then by life, then by number
    largest, wrong = 0.0, 0
    for _, places in groupby(order.tolist(), key=lambda place: tuple(log[place, :2])):
        alone = new_pipeline(max_cache_len=KEPT)
        for place in places:
            [found] = tell(alone, [tuple(log[place].tolist())])
            missing = np.isnan(found)
            same = np.array_equal(missing, np.isnan(scores[place]))
            difference = float(np.abs(found - scores[place])[~missing].max(initial=0.0)) if same else np.inf
            largest, wrong = max(largest, difference), wrong + (difference > WITHIN)
    return largest, wrong
