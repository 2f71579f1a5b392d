"""What a recording as a CUDA graph leaves behind where it fails, seen with stand-ins for what torch gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gliclass_fast.runtime import cuda_graphs
from gliclass_fast.runtime.cuda_graphs import CudaRecorder

POOL = (0, 7)


class Cuda:
    """Stands for torch.cuda, with an allocator that holds the pools of recordings that have not ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
        self.ends, self.stream, self.graphs = ends, "caller", 0
        self.under_way: list[tuple[int, int]] = []
        self.used: list[tuple[int, int]] = []
        for name in ("CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "stream", self.on)
        monkeypatch.setattr(torch.cuda, "current_blas_handle", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        # an older torch has the first under another name
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end_allocation, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self.release, raising=False)
        monkeypatch.setattr(cuda_graphs, "_unended", [])

    def CUDAGraph(self) -> Any:
        def reset() -> None:
            if graph.ended:
                self.used.remove(POOL)

        graph = SimpleNamespace(ended=False, reset=reset)
        return graph

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.stream = self.stream, stream.name
        try:
            yield
        finally:
            self.stream = before

    def graph(self, graph: Any, pool: Any, stream: Any, capture_error_mode: str) -> Any:
        cuda = self

        class Recording:
            def __enter__(self) -> None:
                cuda.stream = stream.name  # and leaves it so where it cannot end, as torch does
                cuda.under_way.append(pool)
                cuda.used.append(pool)

            def __exit__(self, *_: object) -> None:
                if not cuda.ends:
                    raise RuntimeError("operation failed due to a previous error during capture")
                cuda.end_allocation(3, pool)
                graph.ended = True

        return Recording()

    def end_allocation(self, device: int, pool: tuple[int, int]) -> None:
        assert device == 3
        if pool not in self.under_way:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.under_way.remove(pool)

    def release(self, device: int, pool: tuple[int, int]) -> None:
        self.used.remove(pool)


def recorder() -> CudaRecorder:
    made = object.__new__(CudaRecorder)
    streams = {
        name: SimpleNamespace(name=name, wait_stream=lambda _: None) for name in ("first", "recording")
    }
    made._streams, made._pool = SimpleNamespace(**streams), POOL
    return made


def fail() -> Any:
    raise ValueError("the first error")


def test_a_recording_that_torch_cannot_end_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, ours = Cuda(monkeypatch, ends=False), recorder()
    with pytest.raises(RuntimeError, match="a previous error"):
        ours.record(lambda: (torch.zeros(1),))
    assert cuda.stream == "caller" and not cuda.under_way and not cuda.used
    with pytest.raises(ValueError, match="the first error"):
        ours.record(fail)
    assert cuda.stream == "caller" and not cuda.under_way and not cuda.used
    assert len(cuda_graphs._unended) == 2


def test_a_recording_that_fails_and_ends_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, ours = Cuda(monkeypatch, ends=True), recorder()
    with pytest.raises(ValueError, match="the first error"):
        ours.record(fail)
    assert cuda.stream == "caller" and not cuda.under_way and not cuda.used
    assert not cuda_graphs._unended


@pytest.mark.parametrize("name", ["_cuda_endAllocateToPool", "_cuda_releasePool"])
def test_a_torch_without_the_private_operators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, ours = Cuda(monkeypatch, ends=False), recorder()
    monkeypatch.delattr(torch._C, name)
    with pytest.raises(ValueError, match="the first error"):
        ours.record(fail)
    assert cuda.stream == "caller" and len(cuda_graphs._unended) == 1


def test_memory_is_that_of_the_own_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot has no argument before torch 2.8."""
    segments = [
        {"segment_pool_id": pool, "total_size": size}
        for pool, size in ((POOL, 2 << 20), ((0, 0), 5), ((0, 8), 7), (POOL, 3))
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    assert recorder().memory() == (2 << 20) + 3
