"""Memory of weights goes from an older network to a newer one, and never while a tensor still has it."""

from __future__ import annotations

import gc

import pytest
import torch

from gliclass_fast.checkpoint.memory import Memory

WIDE = (300, 257)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_memory_is_given_again_once_no_tensor_has_it(dtype: torch.dtype) -> None:
    memory = Memory()
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
    memory = Memory()
    held, gone = memory.clone(torch.ones(WIDE)), memory.empty(*WIDE)
    del gone
    assert any(memory._idle.values())
    memory.trim()
    assert not any(memory._idle.values())
    assert (held == 1).all()
    del memory
    assert (held == 1).all()


def test_small_and_strided_tensors_are_copied() -> None:
    memory = Memory()
    for source in (torch.arange(6.0), torch.arange(60000.0).view(200, 300).t(), torch.ones(0, 3)):
        copy = memory.clone(source)
        assert torch.equal(copy, source) and copy.is_contiguous()
        assert copy.data_ptr() != source.data_ptr() or not source.numel()
