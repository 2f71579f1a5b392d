"""The batcher: texts of many requests run together, in batches of tokens, as soon as the engine is free.

There is no timer. Whatever waits when a batch ends is the next batch, so an idle service answers at once and
a busy one fills its batches. Whoever came first runs first; a text that does not fit what is left of a batch
lets a bounded number of later ones pass, and is the first of a batch at the latest when it is the oldest.
Texts for several models wait in one queue, and a batch is of one model: the device works for one at a time.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread

from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.engine.engine import Prepared, Scored
from gliclass_fast.serving.errors import Draining, QueueFull, TooLarge
from gliclass_fast.text.errors import ArgumentError

logger = logging.getLogger(__name__)

LOOK_AHEAD = 64  # texts that are looked at, to fill a batch, after one that does not fit
LONGEST_RETRY = 30  # seconds
# of the newest batch in the mean of the tokens per second, which only Retry-After is made of: whole seconds,
# for which any number near this one works
NEWEST_SHARE = 0.2
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


class Batcher:
    """Gives texts to an engine from a thread of its own, and answers through futures of an event loop."""

    def __init__(self, batch_tokens: int, batch_texts: int, queue_tokens: int, queue_texts: int) -> None:
        """Takes the sizes of a batch, and those of the queue."""
        self._batch_tokens, self._batch_texts = batch_tokens, batch_texts
        self._most_tokens, self._most_texts = queue_tokens, queue_texts
        self._queue: deque[_Waiting] = deque()
        self._changed = Condition()  # held while the queue changes
        self._closed = False
        self._tokens_a_second = 0.0
        self._failures = 0  # of texts that ran alone, one after another
        self.queue_tokens = self.queue_texts = 0  # that wait for an answer still
        self.on_batch: Callable[[int, int, float], None] = lambda texts, tokens, seconds: None
        self._thread = Thread(target=self._work, name="gliclass-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Returns whether the engine answers: its thread lives, and not everything has failed of late."""
        return (self._thread.ident is None or self._thread.is_alive()) and self._failures < MOST_FAILURES

    @property
    def ended(self) -> bool:
        """Returns whether the thread has ended after `close`, or never started."""
        return self._closed and not self._thread.is_alive()

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
            self._queue.extend(texts)
            self.queue_tokens += tokens
            self.queue_texts += len(texts)
            self._changed.notify()
        for text in texts:
            text.answer.add_done_callback(lambda _, text=text: self._left(text))  # type: ignore[misc]
        return [text.answer for text in texts]

    def close(self) -> None:
        """Takes no new texts; those that wait are still answered, and then the thread ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()

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

    def _take(self) -> list[_Waiting]:
        """Waits for texts and returns a batch of them; nothing where the queue is empty and closed."""
        with self._changed:
            while True:
                if batch := self._next_batch():
                    return batch
                if self._closed:
                    return []
                self._changed.wait()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        passed: list[_Waiting] = []
        room, misfits = self._batch_tokens, 0
        while self._queue and misfits < LOOK_AHEAD and len(batch) < self._batch_texts:
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

    def _work(self) -> None:
        while batch := self._take():
            try:
                self._answer(batch)
            except Exception:  # as where the event loop has ended; whoever still waits is not given up
                logger.exception("the answers of a batch were lost")

    def _answer(self, batch: list[_Waiting]) -> None:
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
            self._fail(batch, error)
            return
        self._failures = 0  # counted before the answers leave: who has one finds it counted
        tokens = sum(text.prepared.cost for text in batch)
        rate = tokens / max(seconds, 1e-6)
        share = NEWEST_SHARE if self._tokens_a_second else 1.0
        self._tokens_a_second += share * (rate - self._tokens_a_second)
        self.on_batch(len(batch), tokens, seconds)
        _loop_of(batch).call_soon_threadsafe(_deliver, batch, done)

    def _fail(self, batch: list[_Waiting], error: Exception) -> None:
        if len(batch) > 1:
            logger.warning("a batch of %d texts failed, so they run one by one: %r", len(batch), error)
            for text in batch:
                if not text.answer.done():
                    self._answer([text])
            return
        # values that are not finite, and adapters that cannot be read, are a matter of one text
        if not isinstance(error, (FloatingPointError, ArgumentError, CheckpointError)):
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
