"""Recordings as CUDA graphs: they are made and run on streams of their own, and share their memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch
from torch import Tensor

from gliclass_fast.runtime.graphs import Run

MEMORY_SHARE = 0.25  # the share of the device's memory that recordings may hold


class Streams:
    """Holds the streams of a GPU on which a process records graphs, and the one that runs all of them."""

    def __init__(self, device: torch.device) -> None:
        # All graphs use the workspaces that cuBLAS has for the recording stream, so no two may run at once.
        self.running = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # A graph that is freed takes along the workspaces of the stream on which its recording began
        # (pytorch/pytorch#193402), so launches go to another stream. Nothing else should use these two, as
        # the allocator of pinned memory leaves events on streams that copy. They have high priority, as few
        # others take streams of high priority.
        self.first = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        self.recording = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


streams_of = cache(Streams)

logger = logging.getLogger(__name__)

# Recordings that could not end. Allocators keep a pointer to each, and ask it about streams that record.
_unended: list[torch.cuda.CUDAGraph] = []


class CudaRecorder:
    """Records launches as CUDA graphs, in a memory pool of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._streams = device, streams_of(device)
        self.new_pool()
        self.memory_limit = int(MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory)

    @contextmanager
    def stream_scope(self) -> Iterator[None]:
        caller = torch.cuda.current_stream(self._device)
        self._streams.running.wait_stream(caller)
        try:
            with torch.cuda.stream(self._streams.running):
                yield
        finally:
            caller.wait_stream(self._streams.running)

    def record(self, run: Run) -> Run:
        graph = torch.cuda.CUDAGraph()
        failure: BaseException | None = None  # the first error; the end of the recording may raise another
        # also because `torch.cuda.graph` leaves its stream the current one where the recording cannot end
        with torch.cuda.stream(self._streams.first):
            # Every thread has a handle of its own, and none can be made during a recording. The handle's
            # workspace for the other stream is made then, in the pool, which keeps it after the thread ends.
            torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]
            recording = torch.cuda.graph(
                graph, self._pool, self._streams.first, capture_error_mode="thread_local"
            )
            try:
                with recording, self._launches_joined():
                    try:
                        out = run()
                    except BaseException as error:
                        failure = error
            except RuntimeError as error:
                failure = failure or error
        if failure is not None:
            graph.reset()
            forget_allocation(graph, self._pool)
            try:
                raise failure
            finally:
                del failure  # else a cycle keeps its frames and the memory that they hold

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return out

        return replay

    @contextmanager
    def _launches_joined(self) -> Iterator[None]:
        """Makes launches on the recording stream a part of what the first stream records."""
        self._streams.recording.wait_stream(self._streams.first)
        with torch.cuda.stream(self._streams.recording):
            yield
        self._streams.first.wait_stream(self._streams.recording)

    def synchronize(self) -> None:
        self._streams.running.synchronize()

    def new_pool(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def memory(self) -> int:
        # torch takes the pool as an argument from 2.8 on
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        return sum(each["total_size"] for each in segments if each["segment_pool_id"] == self._pool)


def forget_allocation(graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
    """Ends a failed recording's part in the allocation of memory, where `torch` could not end it.

    Where CUDA cannot end a recording, `CUDAGraph.capture_end` raises before it tells the allocator, and
    `reset` does not. The allocator would take the recording for one under way until the process ends: no
    memory of the cache would be freed, and no other recording could begin. The allocator of pinned memory
    cannot be told, so that the pool may not be recorded into again.
    """
    end = getattr(torch._C, "_cuda_endAllocateToPool", None)
    release = getattr(torch._C, "_cuda_releasePool", None)
    if end is not None and release is not None:  # they are private
        try:
            device = torch.cuda.current_device()
            end(device, pool)
        except RuntimeError:
            return  # the recording had ended
        except Exception as error:  # another torch has them otherwise
            logger.warning("the allocator was not told that a recording has ended: %r", error)
        else:
            with suppress(Exception):
                release(device, pool)  # as `reset` does for a recording that ended
    _unended.append(graph)
