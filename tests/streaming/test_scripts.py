"""Random scripts of calls give what reading everything anew gives, whatever was dropped or failed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gliclass_fast.streaming import EveryChunkStrategy, SlidingWindowStrategy
from tests.streaming.scripts import Recomputed, streaming, tiny_reference

LABELS = ["sport", "art"]
TEXT = st.text("abc <>é🚄", max_size=14)
NAMES = st.sampled_from("abcd")
CALL = st.tuples(st.just("call"), st.dictionaries(NAMES, TEXT, min_size=1, max_size=3))
STEP = st.one_of(
    CALL,
    CALL,
    st.tuples(st.just("window"), st.tuples(NAMES, st.integers(1, 30))),
    st.tuples(st.just("delete"), NAMES),
    st.tuples(
        st.just("fail"),
        st.tuples(
            st.sampled_from(["argument", "strategy", "pass"]),
            st.dictionaries(NAMES, TEXT, min_size=1, max_size=3),
        ),
    ),
)


class Failing(EveryChunkStrategy):
    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        raise RuntimeError("the strategy fails")


FAILURES: dict[str, tuple[type[Exception], str]] = {
    "argument": (ValueError, "threshold"),  # before the call begins
    "strategy": (RuntimeError, "the strategy fails"),  # once chunks are staged
    "pass": (RuntimeError, "the pass fails"),  # once all tokens were read
}


def fail(pipeline: Any, where: str, chunks: dict[str, str]) -> None:
    """Makes a call that fails, of given sessions and of a new one."""

    def fails(*_: Any) -> None:
        if where == "pass":
            raise RuntimeError("the pass fails")

    strategies = [EveryChunkStrategy()] * len(chunks)
    strategies.append(Failing() if where == "strategy" else EveryChunkStrategy())
    texts, names = [*chunks.values(), "x"], [*chunks, "new"]
    error, message = FAILURES[where]
    hook = pipeline.model.loaded.network.scorer.register_forward_pre_hook(fails)
    with pytest.raises(error, match=message):
        threshold = 7 if where == "argument" else 0.5
        pipeline(texts, LABELS, session_ids=names, threshold=threshold, strategies=strategies)
    hook.remove()


def play(script: list[tuple[str, Any]], max_cache_len: int | None) -> None:
    pipeline = streaming(drop_absent=False, max_cache_len=max_cache_len)
    model, windows = Recomputed(tiny_reference(), max_cache_len), dict[str, int | None]()
    for kind, given_ in script:
        if kind == "call":
            names, chunks = list(given_), list(given_.values())
            answers = pipeline(chunks, LABELS, session_ids=names, threshold=0.0)
            for name, chunk, answer in zip(names, chunks, answers, strict=True):
                stream = model.append(name, chunk)
                assert answer["cached_length"] == stream.cached_length
                assert answer["tokens_added"] == len(chunk.encode())
                assert answer["triggered"] is bool(chunk)
                if chunk:
                    expected = model.scores(name, LABELS, windows.get(name))
                    found = [each["score"] for each in answer["predictions"]]
                    assert found == pytest.approx(expected, abs=1e-5)
        elif kind == "window" and given_[0] in pipeline.active_sessions:
            windows[given_[0]] = given_[1]
            pipeline.set_session_strategy(given_[0], SlidingWindowStrategy(given_[1]))
        elif kind == "delete":
            assert bool(pipeline.delete_session(given_)) == (given_ in model.streams)
            model.streams.pop(given_, None)
            windows.pop(given_, None)
        elif kind == "fail":
            fail(pipeline, *given_)
        assert set(pipeline.active_sessions) == set(model.streams)
    pipeline.clear_sessions()
    assert pipeline.sessions.pool.used_pages == 0


SCRIPTS = given(st.lists(STEP, min_size=1, max_size=12), st.sampled_from([None, 5, 17, 40]))
SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}


@pytest.mark.slow
@settings(max_examples=60, **SETTINGS)
@SCRIPTS
def test_random_scripts(script: list[tuple[str, Any]], max_cache_len: int | None) -> None:
    play(script, max_cache_len)


@pytest.mark.nightly
@settings(max_examples=1000, **SETTINGS)
@SCRIPTS
def test_very_many_random_scripts(script: list[tuple[str, Any]], max_cache_len: int | None) -> None:
    play(script, max_cache_len)
