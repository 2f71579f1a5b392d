"""The time of a request: what an answer waits for, and for how long."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from gliclass_fast.serving import service as module
from gliclass_fast.serving.errors import DeadlinePassed, Invalid
from gliclass_fast.serving.service import Service
from gliclass_fast.serving.settings import Limits, ServeSettings
from gliclass_fast.text.errors import ArgumentError

REQUEST = {"texts": ["one", "two"], "labels": ["a", "b"]}
SHORT = 0.2  # seconds


def checked(check: Callable[[Service], Awaitable[None]], seconds: float = SHORT) -> None:
    """Runs a check with a service that answers within so many seconds; nothing may be left of it."""
    service = Service(ServeSettings(device="cpu", batch_texts=1, limits=Limits(seconds=seconds)))

    async def run() -> None:
        service.start()
        await check(service)
        await asyncio.wait_for(service.drain(), 20)

    asyncio.run(run())
    assert service.batcher.queue_tokens == service.batcher.queue_texts == 0


def held(monkeypatch: pytest.MonkeyPatch, service: Service) -> Event:
    """Keeps the engine in its batches until the event is set."""
    free, real = Event(), service.engine.score_prepared

    def score(prepared: Sequence[Any]) -> list[Any]:
        assert free.wait(20)
        return real(prepared)

    monkeypatch.setattr(service.engine, "score_prepared", score)
    return free


@pytest.mark.parametrize("texts", [["one"], ["one", "two", "three"]], ids=len)
def test_a_request_is_given_up_when_its_time_ends(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    async def check(service: Service) -> None:
        free, began = held(monkeypatch, service), time.monotonic()
        with pytest.raises(DeadlinePassed, match=r"^no answer within 0\.2 s$"):
            await service.answer({**REQUEST, "texts": texts})
        assert SHORT <= time.monotonic() - began < 20 * SHORT
        await asyncio.sleep(0)
        assert service.batcher.queue_texts == 0, "what no lane had begun is not read any more"
        free.set()
        assert len((await service.answer(REQUEST)).results) == 2

    checked(check)


def test_the_time_of_a_large_request_counts_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    free, real = Event(), module._read

    def read(*arguments: Any) -> Any:
        assert free.wait(20)
        return real(*arguments)

    async def check(service: Service) -> None:
        monkeypatch.setattr(module, "READ_AT_ONCE", 0)
        monkeypatch.setattr(module, "_read", read)
        with pytest.raises(DeadlinePassed):
            await service.answer(REQUEST)
        free.set()
        assert len((await service.answer(REQUEST)).results) == 2

    checked(check)


def test_the_first_text_that_fails_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    free = Event()

    async def check(service: Service) -> None:
        bad, _ = service.engine.prepare(service.pipeline.prepare(**REQUEST).requests)

        def score(prepared: Sequence[Any]) -> list[Any]:
            if prepared[0].cost == bad.cost:
                raise ArgumentError("this text is not for us")
            assert free.wait(20)
            raise ArgumentError("nor is this one")

        monkeypatch.setattr(service.engine, "score_prepared", score)
        with pytest.raises(Invalid, match="this text is not for us"):
            await service.answer({**REQUEST, "texts": ["one", "a much longer text"]})
        free.set()

    checked(check, seconds=20)


def test_of_texts_that_fail_together_the_first_counts_and_no_error_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(service: Service) -> None:
        def submit(run: Any, prepared: Sequence[Any]) -> list[asyncio.Future[Any]]:
            futures = [asyncio.get_running_loop().create_future() for _ in prepared]
            for number, each in reversed(list(enumerate(futures))):
                each.set_exception(ArgumentError(f"text {number} is not for us"))
            return futures

        monkeypatch.setattr(service.batcher, "submit", submit)
        for _ in range(20):  # a set has another order each time
            with pytest.raises(Invalid, match="text 0 is not for us"):
                await service.answer({**REQUEST, "texts": ["one", "two", "three", "four"]})

    checked(check)
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_no_text_needs_no_time() -> None:
    async def check(service: Service) -> None:
        service.settings = replace(service.settings, limits=Limits(seconds=1e-9))
        assert (await service.answer({**REQUEST, "texts": []})).results == []

    checked(check)
