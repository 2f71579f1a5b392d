"""What is asked of a running server, and the figures that each task gives."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gliclass_fast.bench.load import Tally, burst, closed_loop, open_loop
from gliclass_fast.bench.load_questions import Question, Target
from gliclass_fast.bench.serving_process import Server, metric

CLIENTS = 32
BATCH = 32  # texts of a direct call of the library
IN_FLIGHT = 48  # requests that wait when SIGTERM comes
LEAVERS = 128  # clients that leave; one batch does not hold their texts, nor two
AFTER = 0.1  # seconds after which they leave


@dataclass(slots=True)
class Load:
    """A load is what a contender answered, and what that cost it. batches is 0 where it does not tell."""

    tally: Tally = field(default_factory=Tally)
    cpu: float = 0.0  # seconds, of the server's process and its children
    batches: float = 0.0
    texts: float = 0.0  # of all batches

    @property
    def cpu_ms(self) -> float:
        """Returns milliseconds of processor time per right answer."""
        return 1e3 * self.cpu / max(self.tally.right, 1)

    @property
    def mean_batch(self) -> float:
        """Returns the texts of a batch."""
        return self.texts / max(self.batches, 1)

    def add(self, other: Load) -> None:
        """Counts another stretch of the same load, too."""
        self.tally.add(other.tally)
        self.cpu += other.cpu
        self.batches += other.batches
        self.texts += other.texts


def direct(pipeline: Callable[..., Any], questions: Sequence[Question], seconds: float) -> Load:
    """Asks the library itself, in batches of 32, whose time is the latency of each of their texts."""
    load, began, cpu = Load(), time.perf_counter(), time.process_time()
    while (now := time.perf_counter()) - began < seconds:
        batch = [questions[(load.tally.right + place) % len(questions)] for place in range(BATCH)]
        pipeline([each.text for each in batch], [each.labels for each in batch], threshold=0.0)
        load.tally.latencies += BATCH * [time.perf_counter() - now]
    load.tally.seconds, load.cpu = time.perf_counter() - began, time.process_time() - cpu
    return load


def batches(server: Server) -> tuple[float, float]:
    """Returns how many batches the server ran, and how many texts they held."""
    page = server.get("/metrics")
    return metric(page, "gliclass_batch_texts_count"), metric(page, "gliclass_batch_texts_sum")


def loaded(
    server: Server, target: Target, questions: Sequence[Question], seconds: float, counted: bool = True
) -> Load:
    """Puts 32 clients on a server. counted: whether it tells its batches."""
    ran, cpu = batches(server) if counted else (0.0, 0.0), server.cpu()
    load = Load(asyncio.run(closed_loop(target, questions, CLIENTS, seconds)), server.cpu() - cpu)
    if counted:
        load.batches, load.texts = (now - then for now, then in zip(batches(server), ran, strict=True))
    return load


def paced(target: Target, questions: Sequence[Question], rate: float, seconds: float, seed: int) -> Tally:
    """Asks at random times at a rate per second."""
    return asyncio.run(open_loop(target, questions, rate, seconds, seed))


def abandon(server: Server, target: Target, questions: Sequence[Question]) -> float:
    """Returns the batches that a server ends after all its clients left; some run when they leave."""
    asyncio.run(burst(target, questions, lambda: asyncio.sleep(AFTER), leave=True))
    before, _ = batches(server)
    after, known = before, -1.0
    while after != known:  # until none has ended for a while
        known = after
        time.sleep(1.0)
        after, _ = batches(server)
    return after - before


async def end_in_flight(server: Server, target: Target, questions: Sequence[Question]) -> Tally:
    """Asks all questions at once, and asks the server to end as soon as it has taken them.

    The server takes connections in order, so that it has read all before it answers to a later one.
    """

    async def end() -> None:
        await asyncio.to_thread(server.get, "/health")
        server.send(signal.SIGTERM)

    return await burst(target, questions, end)
