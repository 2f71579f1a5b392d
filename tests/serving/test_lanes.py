"""The lanes of the batcher: batches that run at a time, over an engine that the tests hold batch by batch."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Event, Lock, current_thread, main_thread
from typing import Any

import pytest

from gliclass_fast.serving import batcher as module
from gliclass_fast.serving.batcher import Batcher
from gliclass_fast.serving.service import Service
from gliclass_fast.serving.settings import ServeSettings
from tests.serving.test_batcher import text

LONG = 1e6  # seconds of a text, and times as long as a batch


class Engine:
    """Answers a text with itself once its batch is released, and notes the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self._released: dict[Any, Event] = {}

    def __call__(self, prepared: Sequence[Any]) -> list[Any]:
        released = self._released[prepared[0].name] = Event()
        self.batches.append([each.name for each in prepared])
        assert released.wait(20)
        return list(prepared)

    async def has(self, count: int) -> None:
        """Waits until so many batches have come."""
        while len(self.batches) < count:
            await asyncio.sleep(0.001)

    def release(self, first: Any) -> None:
        """Answers the batch whose first text has this name."""
        self._released[first].set()


def served(check: Callable[[Engine, Batcher], Awaitable[None]]) -> list[int]:
    """Runs a check with a batcher of two lanes, and ends it; returns the lanes at work as each one began."""
    engine, lanes, lock = Engine(), [0], Lock()
    began: list[int] = []

    def change(by: int) -> int:
        with lock:
            lanes[0] += by
            return lanes[0]

    @contextmanager
    def at_work() -> Iterator[None]:
        began.append(change(1))
        yield
        change(-1)

    batcher = Batcher(100, 64, 10_000, 10_000, lanes=2, at_work=at_work)

    async def run() -> None:
        batcher.start()
        await asyncio.wait_for(check(engine, batcher), 20)
        batcher.close()
        while not batcher.ended:
            await asyncio.sleep(0.001)

    asyncio.run(run())
    assert lanes == [0] and batcher.queue_tokens == batcher.queue_texts == 0
    return began


def rests(monkeypatch: pytest.MonkeyPatch, rest: float) -> None:
    """Sets how long a lane waits for its share."""
    monkeypatch.setattr(module, "REST_OF_TEXT", rest)
    monkeypatch.setattr(module, "MOST_REST", rest)


async def one_lane_free(engine: Engine, batcher: Batcher) -> list[asyncio.Future[Any]]:
    """Lets both lanes work on four texts each, and one of them end; returns what still runs."""
    waiting = batcher.submit(engine, [text(n) for n in range(8)])
    await engine.has(2)
    engine.release(0)
    await asyncio.gather(*waiting[:4])
    return waiting[4:]


def test_lanes_share_what_waits() -> None:
    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = batcher.submit(engine, [text(n) for n in range(5)])
        await engine.has(2)
        assert sorted(engine.batches) == [[0, 1, 2], [3, 4]], "both run before either has ended"
        engine.release(3)
        engine.release(0)
        await asyncio.gather(*waiting)

    assert served(check) == [1, 2]


def test_a_lane_waits_for_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    rests(monkeypatch, LONG)
    woken: list[bool] = []

    class Counted(Condition):
        def notify_all(self) -> None:
            if current_thread() is main_thread():  # That of the event loop; lanes wake each other, too.
                woken.append(True)
            super().notify_all()

    monkeypatch.setattr(module, "Condition", Counted)

    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await one_lane_free(engine, batcher)
        woken.clear()
        for n in range(10, 14):
            assert len(engine.batches) == 2
            waiting += batcher.submit(engine, [text(n)])
            await asyncio.sleep(0.01)
        await engine.has(3)
        assert len(woken) == 2, "by the first text, and by the one that makes the share"
        assert engine.batches[2] == [10, 11, 12, 13]
        engine.release(4)
        engine.release(10)
        await asyncio.gather(*waiting)

    served(check)


def test_a_lane_waits_no_longer_than_its_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    rests(monkeypatch, 0.0)

    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await one_lane_free(engine, batcher)
        waiting += batcher.submit(engine, [text("alone")])
        await engine.has(3)
        assert engine.batches[2] == ["alone"], "the other lane works still"
        engine.release(4)
        engine.release("alone")
        await asyncio.gather(*waiting)

    served(check)


def test_a_full_batch_and_the_end_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    rests(monkeypatch, LONG)

    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await one_lane_free(engine, batcher)
        waiting += batcher.submit(engine, [text("large", 100)])
        await engine.has(3)
        engine.release("large")
        await asyncio.gather(waiting[-1])
        waiting += batcher.submit(engine, [text("small")])
        await asyncio.sleep(0.01)
        assert engine.batches[2:] == [["large"]]
        batcher.close()
        await engine.has(4)
        assert engine.batches[3] == ["small"]
        engine.release(4)
        engine.release("small")
        await asyncio.gather(*waiting)

    served(check)


def test_a_lane_waits_only_while_another_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rests(monkeypatch, LONG)

    async def check(engine: Engine, batcher: Batcher) -> None:
        waiting = await one_lane_free(engine, batcher)
        waiting += batcher.submit(engine, [text("alone")])
        await asyncio.sleep(0.01)
        assert len(engine.batches) == 2
        engine.release(4)
        await engine.has(3)
        engine.release("alone")
        await asyncio.gather(*waiting)

    served(check)


def test_only_texts_of_clients_that_left_keep_no_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    rests(monkeypatch, LONG)

    async def check(engine: Engine, batcher: Batcher) -> None:
        running = await one_lane_free(engine, batcher)
        for future in batcher.submit(engine, [text(n) for n in range(10, 13)]):
            future.cancel()
        await asyncio.sleep(0.01)
        engine.release(4)
        await asyncio.gather(*running)
        batcher.close()
        while not batcher.ended:
            await asyncio.sleep(0.001)
        assert len(engine.batches) == 2

    served(check)


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize(("threads", "shareable", "lanes"), [(2, True, 2), (1, True, 1), (2, False, 1)])
def test_a_service_has_two_lanes_where_threads_can_be_shared(
    threads: int, shareable: bool, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shareable:
        monkeypatch.setattr("gliclass_fast.kernels._threads._setters", lambda: None)
    assert len(Service(ServeSettings(device="cpu", threads=threads)).batcher.lanes) == lanes


@pytest.mark.usefixtures("kept_threads")
def test_torch_computes_in_one_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gliclass_fast.ops.Ops.own_threads", property(lambda ops: False))
    assert len(Service(ServeSettings(device="cpu", threads=2)).batcher.lanes) == 1
