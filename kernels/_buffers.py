"""Memory for activations, float32 on the host: what one layer no longer uses, a later one gets.

The C library gives large memory back to the system when it is freed, which clears every page of it when it is
written to again: up to 120 MB in a forward pass of 2,048 tokens. The workspaces of csrc/cpu are for blocks of
rows, as every thread keeps its own for good.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from math import prod

import numpy as np
import torch
from torch import Tensor

_LEAST, _MOST = 1 << 20, 1 << 25  # bytes, of memory that is kept
_LINE = 64  # bytes of a cache line, at which memory starts
# A layer of ModernBERT has five at once: its input, the norm of it, what was attended, and both again for the
# next layer. Threads that need more at the same time take what is missing from the system.
_idle: deque[_Block] = deque(maxlen=8)


class _Block:
    """Is compared by identity: `==` of arrays compares their values."""

    __slots__ = ("memory",)

    def __init__(self, size: int) -> None:
        room = np.empty(size + _LINE, dtype=np.uint8)
        start = -room.ctypes.data % _LINE
        self.memory = room[start : start + size]


def empty(*shape: int) -> Tensor:
    """Returns what `torch.empty` does, whatever torch's default dtype and device are."""
    size = prod(shape) * torch.float32.itemsize
    if not _LEAST <= size <= _MOST:
        return torch.empty(shape, dtype=torch.float32, device="cpu")
    block = _taken(size) or _Block(size + size // 8)  # The next batch may have a few tokens more.
    return lent(block.memory[:size], partial(_idle.append, block)).view(torch.float32).view(shape)


def lent(memory: np.ndarray, give_back: Callable[[], None]) -> Tensor:
    """Returns bytes as a tensor; `give_back` is called once no tensor has them any more."""
    used = memory[:]  # lives as long as the storage of the tensor
    weakref.finalize(used, give_back).atexit = False
    return torch.from_numpy(used)


def _taken(size: int) -> _Block | None:
    """Takes a block of at most twice the size; it is no other thread's then."""
    for block in list(_idle):
        if size <= len(block.memory) <= 2 * size:
            try:
                _idle.remove(block)
            except ValueError:  # Another thread has it.
                continue
            return block
    return None
