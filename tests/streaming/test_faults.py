"""What goes wrong within a call of a stream leaves the sessions as they were, or as they are after it."""

from __future__ import annotations

import copy
import gc
import sys
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast import ArgumentError
from gliclass_fast import streaming as ours
from gliclass_fast.models import rotary
from tests.streaming.scripts import streaming
from tests.tiny import SHOT, VOCABULARY

LABELS = ["sport", "art"]


def scores(answer: list[dict[str, Any]]) -> list[float]:
    return [each["score"] for own in answer for each in own["predictions"]]


def assert_whole(pipeline: Any) -> None:
    """Every page belongs to one session, or is free."""
    pool = pipeline.sessions.pool
    held = [page for session in pipeline.sessions.values() for page in session.pages]
    assert Counter(held) + Counter(pool.free) == Counter(range(pool.pages))


class Calling(ours.EveryChunkStrategy):
    """Does something within a call."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        self.action()
        return True

    def __deepcopy__(self, memo: Any) -> Calling:
        return self


@pytest.mark.parametrize(
    "act",
    [
        lambda pipeline: pipeline.delete_session("s"),
        lambda pipeline: pipeline.clear_sessions(),
        lambda pipeline: pipeline("x", LABELS, session_ids="s"),
        lambda pipeline: pipeline.set_session_strategy("s", ours.NeverStrategy()),
        copy.deepcopy,
    ],
    ids=["delete", "clear", "call", "strategy", "copy"],
)
def test_nothing_happens_to_sessions_within_a_call(act: Any) -> None:
    pipeline, twin = streaming(drop_absent=False), streaming(drop_absent=False)
    for each in (pipeline, twin):
        each("the invoice was charged twice", LABELS, session_ids="s")
    pipeline.set_session_strategy("s", Calling(lambda: act(pipeline)))
    with pytest.raises(RuntimeError, match="a call of this pipeline is under way in this thread"):
        pipeline(" and nobody answers", LABELS, session_ids="s")
    pipeline.set_session_strategy("s", Calling(lambda: pipeline.active_sessions))
    for each in (pipeline, twin):
        each("another secret text of somebody else", LABELS, session_ids="t")
    found, expected = (each("!", LABELS, session_ids="s", threshold=0.0) for each in (pipeline, twin))
    assert scores(found) == scores(expected)
    assert_whole(pipeline)


def interrupted(pipeline: Any, number: int, *arguments: Any, **options: Any) -> bool:
    """Makes a call that an interrupt ends as its n-th function begins; tells whether it came so far.

    Python looks for signals there. An error that is raised between two lines, where it does not look, skips
    handlers in some versions.
    """
    left = number

    def trace(frame: Any, event: str, _: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    sys.settrace(trace)
    try:
        pipeline(*arguments, **options)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.long
def test_an_interrupt_leaves_a_call_done_or_undone() -> None:
    pipeline = streaming(max_cache_len=40, max_cached_tokens=100)
    names = ["a", "b"]
    number = 0
    while True:
        pipeline.clear_sessions()
        pipeline(["x" * 30, "y" * 30, "z" * 20], LABELS, session_ids=["a", "b", "gone"])
        number += 3
        if not interrupted(pipeline, number, ["more " * 4, "text " * 4], LABELS, session_ids=names):
            break
        gc.collect(1)  # what an interrupt left open, as inference mode, ends here and not within a later call
        lengths = {name: pipeline.sessions[name].cached_length for name in pipeline.active_sessions}
        assert lengths in ({"a": 30, "b": 30, "gone": 20}, {"a": 40, "b": 40})
        pipeline("q", LABELS, session_ids="a")
        assert_whole(pipeline)
    gc.collect()
    assert number > 300


@pytest.mark.parametrize("change", ["max_length", "batch_tokens", "copy"])
def test_examples_stay_the_same_with_another_engine(change: str) -> None:
    pipeline = streaming()
    pipeline("a", LABELS, session_ids="s", **SHOT)
    prefix = pipeline.sessions["s"].prefix
    assert "<<EXAMPLE>>" in prefix and prefix.endswith("<<SEP>>")
    if change == "copy":
        pipeline = copy.deepcopy(pipeline)
    else:
        setattr(pipeline, change, 512)
    assert pipeline("b", LABELS, session_ids="s", **SHOT)[0]["triggered"]


def test_settings_are_checked_when_they_are_set() -> None:
    pipeline = streaming()
    for name in ("max_cache_len", "max_cached_tokens"):
        for value, error in ((2.5, TypeError), ("9", TypeError), (0, ValueError), (-5, ValueError)):
            with pytest.raises(error, match=name):
                setattr(pipeline, name, value)
        setattr(pipeline, name, None)
    switches = ("drop_absent", "score_leading_sep", "offload_to_cpu", "use_pinned_memory")
    for name in switches:
        kept = getattr(pipeline, name)
        for several in (np.array([1, 2]), torch.tensor([1, 2])):
            with pytest.raises(ArgumentError, match=f"{name} must be true or false"):
                setattr(pipeline, name, several)
            with pytest.raises(ArgumentError, match=f"{name} must be true or false"):
                streaming(**{name: several})
        assert getattr(pipeline, name) is kept
    for value in (None, 7, ours.NeverStrategy):
        with pytest.raises(TypeError, match="default_strategy must be a strategy"):
            pipeline.default_strategy = value
    pipeline.default_strategy = ours.NeverStrategy()
    assert not pipeline("a", LABELS, session_ids="s")[0]["triggered"]
    assert (pipeline.offload_to_cpu, pipeline.use_pinned_memory, pipeline.score_on_cpu) == (False,) * 3


def test_a_strategy_that_cannot_be_copied_is_named() -> None:
    class Locked(ours.EveryChunkStrategy):
        lock: Any = None

        def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
            self.lock = self.lock or threading.Lock()
            return True

    pipeline = streaming()
    pipeline("a", LABELS, session_ids="s", strategies=Locked())
    with pytest.raises(TypeError, match=r"the strategy Locked of session 's', or the .* cannot") as found:
        pipeline("b", LABELS, session_ids="s")
    assert isinstance(found.value, ArgumentError)


def test_strategies_write_down_metadata_and_leave_positions() -> None:
    class Counting(ours.EveryChunkStrategy):
        def get_window(self, cache_state: ours.CacheState) -> ours.CacheState:
            cache_state.metadata["seen"] = cache_state.metadata.get("seen", 0) + 1
            return cache_state

    class Moving(ours.EveryChunkStrategy):
        def get_window(self, cache_state: ours.CacheState) -> ours.CacheState:
            cache_state.next_position_id = 99
            return cache_state

    pipeline = streaming()
    for _ in range(3):
        pipeline("abc", LABELS, session_ids="s", strategies=Counting())
    assert pipeline.sessions["s"].metadata["seen"] == 3

    class Cutting(ours.EveryChunkStrategy):
        def get_window(self, cache_state: ours.CacheState) -> ours.CacheState:
            cut = ours.truncate_cache(cache_state, 2)
            cut.metadata.setdefault("seen", []).append(cut.cached_length)
            return cut

    class Failing(ours.EveryChunkStrategy):
        def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
            raise RuntimeError("no")

    class Careless(ours.EveryChunkStrategy):
        def get_window(self, cache_state: ours.CacheState) -> ours.CacheState:
            cache_state.metadata = None  # type: ignore[assignment]
            return cache_state

    pipeline("abc", LABELS, session_ids="c", strategies=Cutting())
    for other, error in ((Failing(), RuntimeError), (Careless(), ValueError)):
        with pytest.raises(error):
            pipeline(["abc", "d"], LABELS, session_ids=["c", "t"], strategies=other)
    assert pipeline.sessions["c"].metadata["seen"] == [2]
    with pytest.raises(ValueError, match=r"Moving.get_window must return .* tokens keep their positions"):
        pipeline("abc", LABELS, session_ids="t", strategies=Moving())


def test_positions_without_end_take_no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream goes on beyond the tables with the numbers that longer tables would hold."""
    pipeline, twin = streaming(max_cache_len=20), streaming(max_cache_len=20)
    chunks = ["hello", " and on", " and on"]
    expected = [scores(twin(chunk, LABELS, session_ids="s", threshold=0.0)) for chunk in chunks]
    monkeypatch.setattr(rotary, "ROTARY_LENGTH", 8)
    found = [scores(pipeline(chunk, LABELS, session_ids="s", threshold=0.0)) for chunk in chunks]
    assert found == expected
    pipeline.sessions["s"].next_position = 2**20
    pipeline("x", LABELS, session_ids="s")
    table = pipeline.model.loaded.network.decoder.rotary
    assert [len(cos) for cos, _ in table.tables.values()] == [16384]


def test_sessions_without_tokens_make_no_room() -> None:
    pipeline = streaming(drop_absent=False, max_cached_tokens=10)
    for name, text in (("empty", ""), ("a", "12345"), ("b", "1234567")):
        pipeline(text, LABELS, session_ids=name)
    assert pipeline.active_sessions == ["empty", "b"]


def test_sessions_that_are_all_gone_take_no_memory() -> None:
    pipeline, twin = streaming(), streaming()
    pipeline(["x" * 300] * 9, LABELS, session_ids=[str(n) for n in range(9)])
    pipeline.clear_sessions()
    assert pipeline.sessions.pool.pages == 0 == pipeline.sessions.pool.rows.numel()
    answers = [each("abc", LABELS, session_ids="s", threshold=0.0) for each in (pipeline, twin)]
    assert answers[0] == answers[1]


def test_a_token_without_an_embedding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU would read it from beyond the table. The session stays as it was."""
    pipeline, twin = streaming(), streaming()
    for each in (pipeline, twin):
        each("good", LABELS, session_ids="s")
    with monkeypatch.context() as inside:
        foreign = np.array([VOCABULARY], dtype=np.int32)
        inside.setattr(pipeline._reader, "contexts", lambda texts: [foreign for _ in texts])
        with pytest.raises(IndexError, match=f"token {VOCABULARY} has no embedding"):
            pipeline("bad", LABELS, session_ids="s")
    found, expected = (each("more", LABELS, session_ids="s", threshold=0.0) for each in (pipeline, twin))
    assert scores(found) == scores(expected)
    assert_whole(pipeline)
