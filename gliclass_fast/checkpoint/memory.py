"""Memory for packed weights: in huge pages, and for networks that are built again and again."""

from __future__ import annotations

import ctypes
from collections import defaultdict, deque
from contextlib import suppress
from functools import partial
from math import prod
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.ops import lent

_LINE = 64  # bytes of a cache line, at which tensors start
_SMALL = 1 << 16  # bytes, up to which a tensor has memory of its own
_HUGE = 1 << 21  # bytes of a huge page
_CHUNK = 32 * _HUGE


class Memory:
    """Gives out memory on the host for tensors that stay: they lie one behind the other, in huge pages.

    A forward pass reads all weights, with few rows as fast as memory gives them. A huge page takes one entry
    of the processor's TLB, and as many small pages take 512. NumPy asks Linux for huge pages for blocks as
    large as a chunk, of which only what is written to takes memory.
    """

    def __init__(self) -> None:
        self._left = np.empty(0, dtype=np.uint8)
        self._lock = Lock()  # held while a chunk is divided

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # A copied network has copies of its tensors, and needs no more.

    def empty(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Returns what `torch.empty` does; the memory of small tensors, and that of a GPU, is torch's."""
        size = prod(shape) * dtype.itemsize
        if torch.device(device).type != "cpu" or size < _SMALL:
            return torch.empty(shape, dtype=dtype, device=device)
        return self._bytes(size).view(dtype).view(shape)

    def trim(self) -> None:
        """Drops the unused rest of the chunk: a later tensor in it would keep the whole chunk."""
        with self._lock:
            self._left = np.empty(0, dtype=np.uint8)

    def _bytes(self, size: int) -> Tensor:
        return torch.from_numpy(self._block(size))

    def _block(self, size: int) -> np.ndarray:
        with self._lock:
            if len(self._left) < size:
                chunk = np.empty(max(size, _CHUNK) + _HUGE, dtype=np.uint8)
                self._left = chunk[-chunk.ctypes.data % _HUGE :]
            block, left = self._left[:size], self._left[size:]
            self._left = left[-left.ctypes.data % _LINE :]
        return block


class ReusedMemory(Memory):
    """Takes memory back once no tensor has it any more: an older network's goes to a newer one.

    The system clears every page of fresh memory when it is first written to, which takes longer than to write
    the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._idle: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)

    def clone(self, tensor: Tensor) -> Tensor:
        """Returns a contiguous copy."""
        return self.empty(*tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)

    def trim(self) -> None:
        """Gives what nobody uses now back to the system; what is freed later is kept for the next network."""
        super().trim()
        for blocks in list(self._idle.values()):
            blocks.clear()

    def _bytes(self, size: int) -> Tensor:
        idle = self._idle[size]
        try:
            block = idle.pop()
        except IndexError:
            block = self._block(size)
        return lent(block, partial(idle.append, block))


def return_freed() -> None:
    """Gives back to the system what the C library keeps of freed memory, where that is glibc.

    To build a network takes more memory than it has afterwards, in int8 several times as much.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
