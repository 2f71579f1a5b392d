"""Recordings as CUDA graphs: they are made and run on streams of their own, and share their memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
        with torch.cuda.stream(self._streams.first):
            # Every thread has a handle of its own, and none can be made during a recording. The handle's
            # workspace for the other stream is made then, in the pool, which keeps it after the thread ends.
            torch.cuda.current_blas_handle()  # type: ignore[no-untyped-call]
        recording = torch.cuda.graph(
            graph, self._pool, self._streams.first, capture_error_mode="thread_local"
        )
        failure: BaseException | None = None  # the first error; the end of the recording may raise another
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
            try:
                raise failure
            finally:
                del failure  # else a cycle keeps its frames and the memory that they hold

        def replay() -> Tensor:
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
        segments = torch.cuda.memory_snapshot(self._pool)  # type: ignore[no-untyped-call]
        return sum(segment["total_size"] for segment in segments)
