"""Memory of activations goes to a later one, and never while a tensor still has it."""

from __future__ import annotations

from collections import deque

import pytest
import torch

from gliclass_fast.kernels import _buffers
from tests.together import run_together

LARGE = 600, 700  # floats


@pytest.fixture(autouse=True)
def _of_the_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_buffers, "_idle", deque(maxlen=_buffers._idle.maxlen))


def test_memory_is_given_again_once_no_tensor_has_it() -> None:
    first = _buffers.empty(*LARGE).fill_(3)
    assert first.shape == LARGE
    assert first.dtype is torch.float32
    assert first.is_contiguous()
    address = first.data_ptr()
    assert address % 64 == 0
    column = first.t()[7]  # a view has the memory too
    del first
    other = _buffers.empty(*LARGE).fill_(5)
    assert other.data_ptr() != address
    assert (column == 3).all()
    del column
    assert _buffers.empty(500, 700).data_ptr() == address  # a smaller one will do


@pytest.mark.parametrize("shape", [(3, 5), (0, 7), (5000, 2000)])
def test_small_and_very_large_ones_are_not_kept(shape: tuple[int, int]) -> None:
    assert _buffers.empty(*shape).shape == shape
    assert not _buffers._idle


def test_much_more_than_is_needed_is_not_given() -> None:
    address = _buffers.empty(3000, 700).data_ptr()
    assert _buffers.empty(*LARGE).data_ptr() != address
    assert _buffers.empty(2900, 700).data_ptr() == address


def test_only_so_many_are_kept() -> None:
    held = [_buffers.empty(*LARGE) for _ in range(12)]
    held.clear()
    assert len(_buffers._idle) == 8


def test_no_two_threads_have_the_same() -> None:
    right = []

    def work(number: int) -> None:
        for _ in range(300):
            mine = [_buffers.empty(*LARGE) for _ in range(2)]
            for each in mine:
                each[:9, :9] = number
            right.append(all((each[:9, :9] == number).all() for each in mine))

    run_together(work)
    assert len(right) == 1200
    assert all(right)
