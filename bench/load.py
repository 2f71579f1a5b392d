"""A load generator for a server of texts: it checks every answer against the library's own scores.

A closed loop has clients that wait for their answer before they ask again. An open loop asks at times drawn
beforehand, whether or not the server keeps up, and counts latency from the planned time: a server that stalls
cannot hide the requests that it kept from being sent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gliclass_fast.bench.load_connection import Connection, Reply
from gliclass_fast.bench.load_questions import Question, Target

PATIENCE = 60.0  # seconds until a request without an answer counts as lost
PAUSE = 0.05  # seconds that a client of a closed loop waits after it got no answer
SHOWN = 10  # faults kept in words


@dataclass(slots=True)
class Tally:
    """A tally counts what became of requests. Times are seconds."""

    seconds: float = 0.0  # from the start to the last answer
    client_cpu: float = 0.0  # processor time of this process
    latencies: list[float] = field(default_factory=list)  # of right answers
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0  # answers with status 200 and a wrong body
    lost: int = 0  # requests without an answer
    without_retry_after: int = 0  # answers with status 429 that do not say when to come again
    faults: list[str] = field(default_factory=list)

    @property
    def right(self) -> int:
        return len(self.latencies)

    @property
    def rate(self) -> float:
        """Returns right answers per second."""
        return self.right / self.seconds if self.seconds else 0.0

    @property
    def refused(self) -> int:
        return self.statuses[429]

    @property
    def errors(self) -> int:
        """Counts what no client should see: lost and wrong answers, and a status but 200 and 429."""
        return self.lost + self.wrong + self.statuses.total() - self.statuses[200] - self.refused

    def percentile(self, share: float) -> float:
        """Returns the latency below which a share, 0 to 1, of the right answers came; NaN if none did."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else float("nan")

    def note(self, question: Question, reply: Reply, latency: float, tolerance: float) -> bool:
        """Counts a reply; returns whether it is the right answer."""
        self.statuses[reply.status] += 1
        if reply.status == 200:
            if (fault := question.fault(reply, tolerance)) is None:
                self.latencies.append(latency)
                return True
            self.wrong += 1
            self._remember(fault)
        elif reply.status == 429:
            self.without_retry_after += not reply.headers.get("retry-after", "").isdecimal()
        else:
            self._remember(f"status {reply.status}: {reply.body[:200]!r}")
        return False

    def add(self, other: Tally) -> None:
        """Counts what another stretch of the same load found, too."""
        self.seconds += other.seconds
        self.client_cpu += other.client_cpu
        self.latencies += other.latencies
        self.statuses += other.statuses
        self.wrong += other.wrong
        self.lost += other.lost
        self.without_retry_after += other.without_retry_after
        self.faults = (self.faults + other.faults)[:SHOWN]

    def lose(self, reason: Exception) -> None:
        """Counts a request without an answer."""
        self.lost += 1
        self._remember(f"lost: {reason!r}")

    def _remember(self, fault: str) -> None:
        if len(self.faults) < SHOWN:
            self.faults.append(fault)


class _Caller:
    """Asks questions over as many connections as are needed at a time, and tallies the answers."""

    def __init__(self, target: Target) -> None:
        self.tally = Tally()
        self._target = target
        self._idle: list[Connection] = []
        self._began, self._cpu = time.perf_counter(), time.process_time()

    async def ask(self, question: Question, planned: float) -> bool:
        """Asks now and counts from the planned time; returns whether the right answer came."""
        try:
            connection = await self.connection()
        except OSError as failure:
            self.tally.lose(failure)
            return False
        connection.send(self._target.request(question))
        return await self.answer(connection, question, planned)

    async def connection(self) -> Connection:
        """Returns one that is idle, or a new one; raises OSError where nobody listens."""
        while self._idle:
            if not (connection := self._idle.pop()).closed:
                return connection
        return await Connection.open(self._target.host, self._target.port)

    async def answer(self, connection: Connection, question: Question, planned: float) -> bool:
        """Waits for the answer; returns whether it is right."""
        patience = asyncio.get_running_loop().call_later(PATIENCE, connection.close)
        try:
            reply = await connection.receive()
        except (OSError, EOFError, ValueError) as failure:
            connection.close()
            self.tally.lose(failure)
            return False
        finally:
            patience.cancel()
        self._idle.append(connection)
        now = time.perf_counter()
        self.tally.seconds = now - self._began
        return self.tally.note(question, reply, now - planned, self._target.tolerance)

    def finish(self) -> Tally:
        for connection in self._idle:
            connection.close()
        self.tally.client_cpu = time.process_time() - self._cpu
        return self.tally


async def closed_loop(target: Target, questions: Sequence[Question], clients: int, seconds: float) -> Tally:
    """Lets clients ask one question at a time until the time is over, and waits for the last answers."""
    caller, source, ends = _Caller(target), itertools.cycle(questions), time.perf_counter() + seconds

    async def client() -> None:
        while (now := time.perf_counter()) < ends:
            if not await caller.ask(next(source), now):
                await asyncio.sleep(PAUSE)

    await asyncio.gather(*(client() for _ in range(clients)))
    return caller.finish()


async def open_loop(
    target: Target, questions: Sequence[Question], rate: float, seconds: float, seed: int = 0
) -> Tally:
    """Asks at random times, `rate` a second on average, and waits for the last answers."""
    caller, chance, source = _Caller(target), random.Random(seed), itertools.cycle(questions)
    planned, ends = time.perf_counter(), time.perf_counter() + seconds
    asked = []
    while (planned := planned + chance.expovariate(rate)) < ends:
        await asyncio.sleep(max(planned - time.perf_counter(), 0.0))
        asked.append(asyncio.create_task(caller.ask(next(source), planned)))
    await asyncio.gather(*asked)
    return caller.finish()


async def burst(
    target: Target,
    questions: Sequence[Question],
    meanwhile: Callable[[], Awaitable[object]] | None = None,
    leave: bool = False,
) -> Tally:
    """Asks all questions at once, each over a connection of its own, and waits for the answers.

    meanwhile: it is awaited once everything is asked. leave: whether the clients leave after it, unanswered.
    """
    caller = _Caller(target)
    connections = [await caller.connection() for _ in questions]
    pairs, now = list(zip(connections, questions, strict=True)), time.perf_counter()
    for connection, question in pairs:
        connection.send(target.request(question))
    waiting = [] if leave else [asyncio.create_task(caller.answer(*pair, now)) for pair in pairs]
    if meanwhile:
        await meanwhile()
    if leave:
        for connection in connections:
            connection.close()
    await asyncio.gather(*waiting)
    return caller.finish()
