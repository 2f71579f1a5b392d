"""Memory of streams: a call takes it where it is allowed to, and what it fails with leaves none behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.streaming.scripts import assert_same_answers, streaming

LABELS = ["sport", "art", "x"]


def test_sessions_that_do_not_fit_together_run_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, twin = streaming(), streaming()
    network = pipeline.model.loaded.network
    score = network.score_sections

    def of_two_at_most(rows: Any, sections: Any) -> Any:
        if sections.num_prompts > 2:
            raise torch.OutOfMemoryError
        return score(rows, sections)

    monkeypatch.setattr(network, "score_sections", of_two_at_most)
    texts, names = ["", "begin", "here", "and there", "longer than others", ""], list("abcdef")
    for _ in range(2):
        assert_same_answers(*(each(texts, LABELS, session_ids=names) for each in (pipeline, twin)))


def test_memory_is_taken_by_no_refused_call_and_given_back_by_the_last_session() -> None:
    pipeline = streaming(max_cached_tokens=50)
    pipeline("begin", LABELS, session_ids="a")
    before = pipeline.sessions.pool.pages
    with pytest.raises(ValueError, match="more than max_cached_tokens=50"):
        pipeline("x" * 10_000, LABELS, session_ids="b")
    assert pipeline.sessions.pool.pages == before > 0
    pipeline.delete_session("a")
    assert pipeline.sessions.pool.pages == 0
    pipeline("begin", LABELS, session_ids="a")
    pipeline([], LABELS, session_ids=[])
    assert pipeline.sessions.pool.pages == 0


def test_memory_for_keys_and_values_is_made_or_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, that of CUDA graphs is given back first; a first call that fails keeps nothing."""
    pipeline, twin, relieved = streaming(), streaming(), []
    grow, short = pipeline.sessions.pool._grow, [True, True]

    def grows(pages: int) -> None:
        if short and short.pop():
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        grow(pages)

    monkeypatch.setattr(pipeline.sessions.pool, "_grow", grows)
    monkeypatch.setattr(pipeline.engine, "relieve", lambda: relieved.append(True))
    with pytest.raises(torch.OutOfMemoryError, match="no memory for the keys and values: Default"):
        pipeline("begin", LABELS, session_ids="a")
    assert relieved == [True] and pipeline.sessions.pool.pages == 0
    short[:] = [True]
    assert_same_answers(*(each("begin", LABELS, session_ids="a") for each in (pipeline, twin)))
    assert relieved == [True, True]
    pipeline.delete_session("a")
    monkeypatch.setattr(pipeline.model.loaded.network, "score_sections", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pipeline("begin", LABELS, session_ids="a")
    assert pipeline.sessions.pool.pages == 0
