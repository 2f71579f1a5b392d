"""A recorder for graphs on a CPU: it replays by running again into the recording's memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet, finalize

import torch
from torch import Tensor

from gliclass_fast import GLiClassModel
from gliclass_fast.runtime.graphs import GraphRunner, Run


class Again:
    """This recorder repeats launches while Python values stay as recorded, as CUDA graphs do.

    As theirs, its pool of memory is gone once it was used and holds no recording, and a recording must not
    end while it may still run.
    """

    def __init__(self, memory_limit: int = 1 << 40) -> None:
        self.memory_limit = memory_limit
        self.recorded = self.renewed = self.held = self.in_pool = 0
        self.running = False  # whether launches may still run
        self.ended_while_running = 0
        self.busy = threading.Lock()
        self.failures: list[BaseException] = []
        self.recordings: WeakSet[Run] = WeakSet()

    @contextmanager
    def stream_scope(self) -> Iterator[None]:
        assert self.busy.acquire(blocking=False), "two batches at once"
        try:
            yield
        finally:
            self.busy.release()

    def record(self, run: Run) -> Run:
        if self.failures:
            raise self.failures.pop()
        assert self.alive() or not self.in_pool, "the pool is gone"
        self.in_pool += 1
        out = tuple(torch.full_like(each, float("nan")) for each in run())  # a recording runs nothing
        self.held += sum(each.nbytes for each in out)
        self.recorded += 1

        def replay() -> tuple[Tensor, ...]:
            self.running = True
            return tuple(place.copy_(found) for place, found in zip(out, run(), strict=True))

        def ended() -> None:
            self.ended_while_running += self.running

        self.recordings.add(replay)
        finalize(replay, ended).atexit = False
        return replay

    def alive(self) -> int:
        """Counts the recordings that somebody still holds."""
        return len(self.recordings)

    def synchronize(self) -> None:
        self.running = False

    def new_pool(self) -> None:
        self.renewed += 1
        self.held = self.in_pool = 0

    def memory(self) -> int:
        return self.held


def with_graphs(model: GLiClassModel, recorder: Again, max_graphs: int = 256) -> GLiClassModel:
    model.loaded.network.score_recordable = True  # nothing is read too early where Python runs again
    model.loaded.graphs = GraphRunner(model.loaded.network, model.device, recorder, max_graphs)
    return model
