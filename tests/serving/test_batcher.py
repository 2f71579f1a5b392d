"""The batcher by itself, over an engine that the tests hold, release and let fail."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from gliclass_fast.serving.batcher import LOOK_AHEAD, MOST_FAILURES, Batcher, Done
from gliclass_fast.serving.errors import Draining, QueueFull, TooLarge


class Engine:
    """Answers a text with itself, as long as it is released, and notes the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.free = Event()
        self.free.set()

    def __call__(self, prepared: Sequence[Any]) -> list[Any]:
        self.batches.append([each.name for each in prepared])
        assert self.free.wait(20)
        if any(each.name == "poison" for each in prepared):
            raise ValueError("poisoned")
        return list(prepared)


def text(name: Any, cost: int = 10) -> Any:
    return SimpleNamespace(name=name, cost=cost)


def served(
    check: Callable[[Engine, Batcher], Awaitable[None]],
    batch_tokens: int = 100,
    queue_tokens: int = 10_000,
    queue_texts: int = 10_000,
) -> None:
    """Runs a check with a batcher that works, and ends the batcher."""
    engine = Engine()
    batcher = Batcher(batch_tokens, 64, queue_tokens, queue_texts)

    async def run() -> None:
        batcher.start()
        try:
            await check(engine, batcher)
        finally:
            engine.free.set()
            batcher.close()
            while not batcher.ended:
                await asyncio.sleep(0.001)

    asyncio.run(run())
    assert batcher.queue_tokens == batcher.queue_texts == 0, (
        "the count of what waits must come back to nothing"
    )


async def held(engine: Engine, batcher: Batcher) -> list[asyncio.Future[Done]]:
    """Keeps the engine in a batch of one, so that whatever comes next waits."""
    engine.free.clear()
    futures = batcher.submit(engine, [text("first")])
    while not engine.batches:
        await asyncio.sleep(0.001)
    return futures


def test_what_waits_while_the_engine_works_is_the_next_batch() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await held(engine, batcher)
        for name in range(25):
            waiting += batcher.submit(engine, [text(name)])
        engine.free.set()
        done = await asyncio.gather(*waiting)
        assert [each.scored.name for each in done] == ["first", *range(25)]
        assert [len(batch) for batch in engine.batches] == [1, 10, 10, 5], "100 tokens are 10 texts"
        assert done[5].batch_texts == 10 and done[-1].queue_seconds > 0

    served(check)


def test_a_poisoned_text_fails_alone() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await held(engine, batcher)
        names = ["a", "b", "poison", "c", "poison"]
        for name in names:
            waiting += batcher.submit(engine, [text(name)])
        engine.free.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        for name, answer in zip(["first", *names], found, strict=True):
            if name == "poison":
                assert isinstance(answer, ValueError)
            else:
                assert isinstance(answer, Done) and answer.scored.name == name  # type: ignore[attr-defined]

    served(check)


def test_texts_of_clients_that_left_do_not_run() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        first = await held(engine, batcher)
        left = batcher.submit(engine, [text(f"left {n}") for n in range(30)])
        stays = batcher.submit(engine, [text("stays")])
        for future in left:
            future.cancel()
        await asyncio.sleep(0)
        assert (batcher.queue_tokens, batcher.queue_texts) == (10, 1), "what was given up is not counted"
        engine.free.set()
        await asyncio.gather(*first, *stays)
        assert engine.batches == [["first"], ["stays"]]

    served(check)


def test_a_large_text_is_passed_by_but_not_for_ever() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await held(engine, batcher)
        waiting += batcher.submit(engine, [text("small", 30), text("large", 90)])
        for n in range(LOOK_AHEAD * 2):
            waiting += batcher.submit(engine, [text(n, 10)])
        engine.free.set()
        await asyncio.gather(*waiting)
        assert engine.batches[1] == ["small", *range(7)], "later ones fill what the large one leaves"
        assert engine.batches[2][0] == "large", "then it is the oldest"

    served(check)


def test_a_batch_is_of_one_model() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        other = Engine()
        waiting = await held(engine, batcher)
        for n in range(3):
            waiting += batcher.submit(engine, [text(f"ours {n}")]) + batcher.submit(
                other, [text(f"theirs {n}")]
            )
        engine.free.set()
        await asyncio.gather(*waiting)
        assert engine.batches == [["first"], ["ours 0", "ours 1", "ours 2"]]
        assert other.batches == [["theirs 0", "theirs 1", "theirs 2"]]

    served(check)


def test_a_text_larger_than_a_batch_runs_alone() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await held(engine, batcher)
        waiting += batcher.submit(engine, [text("huge", 1000), text("small")])
        engine.free.set()
        await asyncio.gather(*waiting)
        assert engine.batches == [["first"], ["huge"], ["small"]]

    served(check)


@pytest.mark.parametrize("bound", [{"queue_tokens": 50}, {"queue_texts": 5}])
def test_a_full_queue_refuses_and_says_when(bound: dict[str, int]) -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await held(engine, batcher)
        for n in range(5):
            waiting += batcher.submit(engine, [text(n)])
        with pytest.raises(QueueFull) as refused:
            batcher.submit(engine, [text("one more")])
        assert refused.value.retry_after is not None and refused.value.retry_after >= 1
        engine.free.set()
        await asyncio.gather(*waiting)
        [answer] = await asyncio.gather(*batcher.submit(engine, [text("later")]))
        assert answer.scored.name == "later"

    served(check, **bound)


def test_a_request_larger_than_the_queue_is_refused_and_one_of_its_size_is_let_in() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        with pytest.raises(TooLarge, match="send fewer texts"):
            batcher.submit(engine, [text(n) for n in range(6)])
        waiting = await held(engine, batcher) + batcher.submit(engine, [text("one")])
        waiting += batcher.submit(engine, [text(n) for n in range(5)])
        engine.free.set()
        done = await asyncio.gather(*waiting)
        assert [each.scored.name for each in done] == ["first", "one", *range(5)]

    served(check, queue_tokens=50)


def test_an_engine_that_always_fails_is_not_healthy() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        for _ in range(MOST_FAILURES):
            assert batcher.healthy
            [failed] = await asyncio.gather(*batcher.submit(engine, [text("poison")]), return_exceptions=True)
            assert isinstance(failed, ValueError)
        assert not batcher.healthy
        await asyncio.gather(*batcher.submit(engine, [text("good")]))
        assert batcher.healthy, "it has recovered"

    served(check)


def test_an_event_loop_that_ended_does_not_end_the_thread() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        engine.free.clear()
        await asyncio.to_thread(asyncio.run, _left_alone(engine, batcher))
        engine.free.set()
        [done] = await asyncio.gather(*batcher.submit(engine, [text("later")]))
        assert done.scored.name == "later" and batcher.healthy

    served(check)


async def _left_alone(engine: Engine, batcher: Batcher) -> None:
    batcher.submit(engine, [text("lost")])
    while not engine.batches:
        await asyncio.sleep(0.001)


def test_what_waits_is_answered_before_the_end() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await held(engine, batcher)
        waiting += batcher.submit(engine, [text(n) for n in range(30)])
        batcher.close()
        with pytest.raises(Draining):
            batcher.submit(engine, [text("too late")])
        engine.free.set()
        await asyncio.gather(*waiting)
        while not batcher.ended:
            await asyncio.sleep(0.001)

    served(check)


def test_a_batcher_that_never_started_ends_too() -> None:
    batcher = Batcher(100, 64, 1000, 1000)
    batcher.close()
    assert batcher.ended
