"""What is asked of a running server, and the figures that each task gives."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gliclass_fast.bench.load import Tally, burst, closed_loop, open_loop
from gliclass_fast.bench.load_questions import Question, Target
from gliclass_fast.bench.serving_process import Server, metric

CLIENTS = 32
BATCH = 32  # texts of a direct call of the library
IN_FLIGHT = 48  # requests that wait when SIGTERM comes
LEAVERS = 64  # clients that leave
BEFORE, AFTER = 0.03, 0.1  # seconds until they ask, and until they leave


@dataclass(frozen=True, slots=True)
class Load:
    """A load is what a contender answered, and what that cost it. mean_batch is 0 where it does not tell."""

    tally: Tally
    cpu_ms: float  # of the server's process and its children, per right answer
    mean_batch: float = 0.0


def direct(
    pipeline: Callable[..., Any], questions: Sequence[Question], seconds: float
) -> tuple[float, float]:
    """Returns texts per second of the library itself in batches of 32, and milliseconds of CPU a text."""
    began, cpu, texts = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        batch = [questions[(texts + place) % len(questions)] for place in range(BATCH)]
        pipeline([each.text for each in batch], [each.labels for each in batch], threshold=0.0)
        texts += len(batch)
    return texts / (time.perf_counter() - began), 1e3 * (time.process_time() - cpu) / texts


def batches(server: Server) -> tuple[float, float]:
    """Returns how many batches the server ran, and how many texts they held."""
    page = server.get("/metrics")
    return metric(page, "gliclass_batch_texts_count"), metric(page, "gliclass_batch_texts_sum")


def loaded(
    server: Server, target: Target, questions: Sequence[Question], seconds: float, counted: bool = True
) -> Load:
    """Puts 32 clients on a server. counted: whether it tells its batches."""
    ran, cpu = batches(server) if counted else (0.0, 0.0), server.cpu()
    tally = asyncio.run(closed_loop(target, questions, CLIENTS, seconds))
    cpu_ms = 1e3 * (server.cpu() - cpu) / max(tally.right, 1)
    if not counted:
        return Load(tally, cpu_ms)
    count, texts = (now - before for now, before in zip(batches(server), ran, strict=True))
    return Load(tally, cpu_ms, texts / max(count, 1))


def paced(target: Target, questions: Sequence[Question], rate: float, seconds: float, seed: int) -> Tally:
    """Asks at random times at a rate per second."""
    return asyncio.run(open_loop(target, questions, rate, seconds, seed))


def abandon(
    server: Server, target: Target, long: Question, questions: Sequence[Question]
) -> tuple[float, float]:
    """Returns the batches and texts that a server runs for clients that left while it was busy.

    long: it keeps the server busy, in a batch of its own, while the others ask and leave.
    """

    async def ask_and_leave() -> None:
        await asyncio.sleep(BEFORE)
        await burst(target, questions, lambda: asyncio.sleep(AFTER), leave=True)

    before = batches(server)
    asyncio.run(burst(target, [long], ask_and_leave))
    while metric(server.get("/metrics"), "gliclass_queue_tokens"):
        time.sleep(0.05)
    time.sleep(0.5)  # for the batch that runs
    count, texts = (now - then for now, then in zip(batches(server), before, strict=True))
    return count - 1, texts - 1


async def end_in_flight(server: Server, target: Target, questions: Sequence[Question]) -> Tally:
    """Asks all questions at once, and asks the server to end as soon as it has taken them.

    The server takes connections in order, so that it has read all before it answers to a later one.
    """

    async def end() -> None:
        await asyncio.to_thread(server.get, "/health")
        server.send(signal.SIGTERM)

    return await burst(target, questions, end)
