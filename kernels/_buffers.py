"""Memory for activations, float32 on the host: what one layer no longer uses, a later one gets.

The C library gives large memory back to the system when it is freed, which clears every page of it when it is
written to again. A batch of 2,048 tokens may need 120 MB anew for it in a forward pass.
"""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
import torch
from torch import Tensor

_LEAST, _MOST = 1 << 18, 1 << 23  # floats, of memory that is kept
_LINE = 64 // 4  # floats of a cache line, at which memory starts
# A layer holds six at once. Threads that need more at the same time take what is missing from the system.
_idle: deque[_Block] = deque(maxlen=8)


class _Block:
    """Has an identity, which arrays compare by no operator."""

    __slots__ = ("floats",)

    def __init__(self, count: int) -> None:
        room = np.empty(count + _LINE, dtype=np.float32)
        start = -room.ctypes.data // 4 % _LINE
        self.floats = room[start : start + count]


def empty(*shape: int) -> Tensor:
    """Returns what `torch.empty` does."""
    count = 1
    for size in shape:
        count *= size
    if not _LEAST <= count <= _MOST:
        return torch.empty(shape)
    block = _taken(count) or _Block(count + count // 8)  # The next batch may have a few tokens more.
    used = block.floats[:count]  # lives as long as the storage of the tensor
    weakref.finalize(used, _idle.append, block).atexit = False
    return torch.from_numpy(used).view(shape)


def _taken(count: int) -> _Block | None:
    """Takes a block of at most twice the size; it is no other thread's then."""
    for block in list(_idle):
        if count <= len(block.floats) <= 2 * count:
            try:
                _idle.remove(block)
            except ValueError:  # Another thread has it.
                continue
            return block
    return None
