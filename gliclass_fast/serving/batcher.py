"""The batcher: texts of many requests run together, in batches of tokens, as soon as a lane is free.

A lane is a thread that gives the engine one batch at a time. A GPU has one lane: whatever waits when a batch
ends is the next batch, so an idle service answers at once and a busy one fills its batches. A CPU of several
cores has two where our kernels do the work, each with its share of the cores: while one works, the event
loop has the cores of the other, to answer the batch before and to read the requests that follow. So a lane
takes no more than its share of all texts, and waits for that share for a moment.

Whoever came first runs first; a text that does not fit what is left of a batch lets a bounded number of later
ones pass, and is the first of a batch at the latest when it is the oldest. Texts for several models wait in
one queue, and a batch is of one model.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from threading import Condition, Thread

from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.engine.scored import Prepared, Scored
from gliclass_fast.serving.errors import Draining, QueueFull, TooLarge
from gliclass_fast.text.errors import ArgumentError

logger = logging.getLogger(__name__)

LOOK_AHEAD = 64  # texts that are looked at, to fill a batch, after one that does not fit
LONGEST_RETRY = 30  # seconds
# of the newest batch in the mean of the tokens per second, which only Retry-After is made of: whole seconds,
# for which any number near this one works
NEWEST_SHARE = 0.2
# While another lane works, a lane waits for its share: for about twice the seconds in which the event loop
# answers its last batch and reads as many requests, but for no more than a part of the time of that batch.
REST_OF_TEXT = 0.003
MOST_REST = 0.2
MOST_FAILURES = 8  # texts of which each failed alone, without a success between them
Run = Callable[[Sequence[Prepared]], list[Scored]]


@dataclass(frozen=True, slots=True)
class Done:
    """Holds the answer to one text, and how it came about."""

    scored: Scored
    queue_seconds: float
    forward_seconds: float  # of its whole batch
    batch_texts: int


@dataclass(slots=True, eq=False)
class _Waiting:
    """Holds a text in the queue."""

    run: Run  # its model
    prepared: Prepared
    answer: asyncio.Future[Done]
    arrived: float
    counted: bool = True  # its tokens count as waiting


@dataclass(slots=True)
class _Lane:
    """Holds what a lane does."""

    running: int = 0  # texts of its batch
    goal: int = 1  # texts for which it waits, until a time
    until: float = 0.0


class Batcher:
    """Gives texts to an engine from threads of its own, and answers through futures of an event loop."""

    def __init__(
        self,
        batch_tokens: int,
        batch_texts: int,
        queue_tokens: int,
        queue_texts: int,
        lanes: int = 1,
        at_work: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Takes the sizes of a batch, and those of the queue.

        lanes: threads, and so batches that run at a time. at_work: what a lane enters for each batch.
        """
        self._batch_tokens, self._batch_texts = batch_tokens, batch_texts
        self._most_tokens, self._most_texts = queue_tokens, queue_texts
        self._queue: deque[_Waiting] = deque()
        self._changed = Condition()  # held while the queue changes
        self._closed = False
        self._tokens_a_second = 0.0
        self._failures = 0  # of texts that ran alone, one after another
        self.queue_tokens = self.queue_texts = 0  # that wait for an answer still
        self.on_batch: Callable[[int, int, float], None] = lambda texts, tokens, seconds: None
        self._at_work = at_work
        self.lanes = [_Lane() for _ in range(lanes)]
        self._threads = [
            Thread(target=self._work, args=(lane,), name=f"gliclass-lane-{number}", daemon=True)
            for number, lane in enumerate(self.lanes)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for each in self._threads:
            each.start()

    @property
    def healthy(self) -> bool:
        """Returns whether the engine answers: its threads live, and not everything has failed of late."""
        alive = all(each.ident is None or each.is_alive() for each in self._threads)
        return alive and self._failures < MOST_FAILURES

    @property
    def ended(self) -> bool:
        """Returns whether the threads have ended after `close`, or never started."""
        return self._closed and not any(each.is_alive() for each in self._threads)

    def check_room(self) -> None:
        """Raises QueueFull where as much waits as may; else a request of an allowed size is let in."""
        if self.queue_tokens >= self._most_tokens or self.queue_texts >= self._most_texts:
            raise QueueFull(
                f"{self.queue_texts} texts of {self.queue_tokens} tokens wait already: try again later",
                self._retry_after(),
            )

    def submit(self, run: Run, prepared: Sequence[Prepared]) -> list[asyncio.Future[Done]]:
        """Puts texts at the end of the queue; a future that is cancelled takes its text out again.

        run: what scores them, that of one model.

        This is called in the event loop. Raises the error of `check_room`, TooLarge for a request that is
        larger than the queue, and Draining after `close`.
        """
        loop, now, tokens = asyncio.get_running_loop(), time.monotonic(), sum(each.cost for each in prepared)
        if tokens > self._most_tokens:
            raise TooLarge(
                f"the request has {tokens} tokens; at most {self._most_tokens} are allowed: send fewer texts "
                "at a time"
            )
        with self._changed:
            if self._closed:
                raise Draining("the service has ended")
            self.check_room()
            texts = [_Waiting(run, each, loop.create_future(), now) for each in prepared]
            first = not self._queue
            self._queue.extend(texts)
            self.queue_tokens += tokens
            self.queue_texts += len(texts)
            # a lane that waits for more than there is will look by itself when its time ends
            if first or any(not lane.running and self._is_enough(lane) for lane in self.lanes):
                self._changed.notify_all()
        for text in texts:
            text.answer.add_done_callback(lambda _, text=text: self._left(text))  # type: ignore[misc]
        return [text.answer for text in texts]

    def close(self) -> None:
        """Takes no new texts; those that wait are still answered, and then the threads end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _retry_after(self) -> int:
        if not self._tokens_a_second:
            return 1
        return min(LONGEST_RETRY, max(1, math.ceil(self.queue_tokens / self._tokens_a_second)))

    def _left(self, text: _Waiting) -> None:
        with self._changed:
            self._uncount(text)

    def _uncount(self, text: _Waiting) -> None:
        if text.counted:
            text.counted = False
            self.queue_tokens -= text.prepared.cost
            self.queue_texts -= 1

    def _share(self) -> int:
        """Returns the texts of a lane where all that wait or run are shared by all lanes, and 1 at least."""
        texts = self.queue_texts + sum(lane.running for lane in self.lanes)
        return max(1, math.ceil(texts / len(self.lanes)))

    def _take(self, lane: _Lane) -> list[_Waiting]:
        """Waits for texts and returns a batch of them; nothing where the queue is empty and closed."""
        with self._changed:
            lane.running = 0
            self._changed.notify_all()  # another one may wait only because this one worked
            while True:
                left = lane.until - time.monotonic()
                if (left <= 0 or self._is_enough(lane)) and (batch := self._next_batch()):
                    lane.running = len(batch)
                    return batch
                if self._closed and not self._queue:
                    return []
                self._changed.wait(left if self._queue and left > 0 else None)

    def _is_enough(self, lane: _Lane) -> bool:
        """Returns whether a lane need not wait for more texts than there are."""
        enough = self.queue_texts >= lane.goal or self.queue_tokens >= self._batch_tokens
        return enough or self._closed or not any(each.running for each in self.lanes)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        room, most, misfits = self._batch_tokens, min(self._batch_texts, self._share()), 0
        while self._queue and misfits < LOOK_AHEAD and len(batch) < most:
            text = self._queue.popleft()
            if text.answer.done():  # its client left, or its time passed
                continue
            if batch and (text.run != batch[0].run or text.prepared.cost > room):
                misfits += text.run == batch[0].run
                passed.append(text)
                continue
            batch.append(text)
            room -= text.prepared.cost
            self._uncount(text)
        self._queue.extendleft(reversed(passed))
        return batch

    def _work(self, lane: _Lane) -> None:
        while batch := self._take(lane):
            try:
                with self._at_work():
                    self._answer(lane, batch)
            except Exception:  # as where the event loop has ended; whoever still waits is not given up
                logger.exception("the answers of a batch were lost")

    def _answer(self, lane: _Lane, batch: list[_Waiting]) -> None:
        """Runs a batch; where it fails, its texts run one by one, and those that fail alone have failed."""
        start = time.monotonic()
        try:
            scored = batch[0].run([text.prepared for text in batch])
            seconds = time.monotonic() - start
            done = [
                Done(each, start - text.arrived, seconds, len(batch))
                for text, each in zip(batch, scored, strict=True)
            ]
        except Exception as error:
            self._fail(lane, batch, error)
            return
        # counted before the answers leave: who has one finds it counted
        tokens = sum(text.prepared.cost for text in batch)
        with self._changed:
            self._failures = 0
            at_work = sum(each.running > 0 for each in self.lanes)
            rate = at_work * tokens / max(seconds, 1e-6)
            weight = NEWEST_SHARE if self._tokens_a_second else 1.0
            self._tokens_a_second += weight * (rate - self._tokens_a_second)
            # most clients that have an answer now will ask again
            lane.goal = self._share()
            lane.until = start + seconds + min(REST_OF_TEXT * len(batch), MOST_REST * seconds)
        self.on_batch(len(batch), tokens, seconds)
        _loop_of(batch).call_soon_threadsafe(_deliver, batch, done)

    def _fail(self, lane: _Lane, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) > 1:
            logger.warning("a batch of %d texts failed, so they run one by one: %r", len(batch), error)
            for text in batch:
                if not text.answer.done():
                    self._answer(lane, [text])
            return
        # values that are not finite, and adapters that cannot be read, are a matter of one text
        if not isinstance(error, (FloatingPointError, ArgumentError, CheckpointError)):
            with self._changed:
                self._failures += 1
        _loop_of(batch).call_soon_threadsafe(_refuse, batch[0], error)


def _loop_of(batch: list[_Waiting]) -> asyncio.AbstractEventLoop:
    return batch[0].answer.get_loop()


def _deliver(batch: list[_Waiting], done: list[Done]) -> None:
    """Gives a batch its answers, in the event loop."""
    for text, own in zip(batch, done, strict=True):
        if not text.answer.done():
            text.answer.set_result(own)


def _refuse(text: _Waiting, error: Exception) -> None:
    """Gives a text the error that it failed with, in the event loop."""
    if not text.answer.done():
        text.answer.set_exception(error)
