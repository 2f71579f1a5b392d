"""Memory of weights lies in huge pages, or goes to a newer network, but never while a tensor still has it."""

from __future__ import annotations

import copy
import ctypes
import gc
import pickle
import weakref
from itertools import pairwise

import pytest
import torch

from gliclass_fast.checkpoint.memory import Memory, ReusedMemory, return_freed
from tests.together import run_together

WIDE = (300, 257)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_memory_is_given_again_once_no_tensor_has_it(dtype: torch.dtype) -> None:
    memory = ReusedMemory()
    first = memory.empty(*WIDE, dtype=dtype).fill_(3)
    assert first.shape == WIDE and first.dtype is dtype and first.is_contiguous()
    address = first.data_ptr()
    assert address % 64 == 0
    column = first.t()[7]  # a view has the memory too
    del first
    other = memory.empty(*WIDE, dtype=dtype).fill_(5)
    assert other.data_ptr() != address and (column == 3).all()
    parameter = torch.nn.Parameter(column.detach(), requires_grad=False)
    del column
    assert memory.empty(*WIDE, dtype=dtype).data_ptr() != address
    del parameter
    gc.collect()
    assert address in {memory.empty(*WIDE, dtype=dtype).data_ptr() for _ in range(2)}


def test_what_is_trimmed_is_not_given_again_and_what_is_held_stays() -> None:
    memory = ReusedMemory()
    held, gone = memory.clone(torch.ones(WIDE)), memory.empty(*WIDE)
    del gone
    assert any(memory._idle.values())
    memory.trim()
    assert not any(memory._idle.values())
    assert (held == 1).all()
    del memory
    assert (held == 1).all()


def test_tensors_lie_one_behind_the_other_in_a_chunk_that_goes_with_the_last() -> None:
    memory = Memory()
    first, second = memory.empty(*WIDE).fill_(1), memory.empty(*WIDE, dtype=torch.uint8).fill_(2)
    assert first.data_ptr() % (1 << 21) == 0
    size = 4 * WIDE[0] * WIDE[1]
    assert second.data_ptr() == first.data_ptr() + size + -size % 64
    larger = memory.empty(5000, 5000)  # than a chunk
    assert larger.data_ptr() % (1 << 21) == 0
    chunk = weakref.ref(memory._left.base)
    memory.trim()
    del first, second
    assert chunk() is not None
    del larger
    assert chunk() is None


def test_threads_divide_a_chunk_into_what_does_not_overlap() -> None:
    memory, found = Memory(), []

    def take(_: int) -> None:
        found.extend(memory.empty(100, 257) for _ in range(200))

    run_together(take)
    starts = sorted(each.data_ptr() for each in found)
    assert len(starts) == 800
    assert all(second - first >= 4 * 100 * 257 for first, second in pairwise(starts))


@pytest.mark.parametrize("kind", [Memory, ReusedMemory])
def test_a_copy_takes_no_memory_along(kind: type[Memory]) -> None:
    memory = kind()
    assert (memory.empty(*WIDE).fill_(1) == 1).all()
    assert len(pickle.dumps(memory)) < 1000
    assert copy.deepcopy(memory).empty(*WIDE).shape == WIDE


def test_a_system_that_gives_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in (object(), None):
        monkeypatch.setattr(ctypes, "CDLL", {None: library}.get)
        return_freed()


def test_small_and_strided_tensors_are_copied() -> None:
    memory = ReusedMemory()
    for source in (torch.arange(6.0), torch.arange(60000.0).view(200, 300).t(), torch.ones(0, 3)):
        copy = memory.clone(source)
        assert torch.equal(copy, source) and copy.is_contiguous()
        assert copy.data_ptr() != source.data_ptr() or not source.numel()
