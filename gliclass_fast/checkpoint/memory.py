"""Memory for packed weights: in huge pages, and for networks that are built again and again."""

from __future__ import annotations

import ctypes
import weakref
from collections import defaultdict, deque
from contextlib import suppress
from math import prod

import numpy as np
import torch
from torch import Tensor

_LINE = 64  # bytes of a cache line, at which tensors start
_SMALL = 1 << 16  # bytes, up to which a tensor has memory of its own
_HUGE = 1 << 21  # bytes of a huge page
_CHUNK = 32 * _HUGE


class Memory:
    """Gives out memory on the host for tensors that stay: they lie one behind the other, in huge pages.

    A forward pass reads all weights, with few rows as fast as memory gives them. The processor looks up where
    a huge page is once, and 512 times for as many small pages. NumPy asks Linux for huge pages for blocks as
    large as a chunk, of which only what is written to takes memory.
    """

    def __init__(self) -> None:
        self._left = np.empty(0, dtype=np.uint8)

    def empty(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Returns what `torch.empty` does; the memory of small tensors, and that of a GPU, is torch's."""
        size = prod(shape) * dtype.itemsize
        if torch.device(device).type != "cpu" or size < _SMALL:
            return torch.empty(shape, dtype=dtype, device=device)
        return torch.from_numpy(self._block(size)).view(dtype).view(shape)

    def _block(self, size: int) -> np.ndarray:
        if len(self._left) < size:
            chunk = np.empty(max(size, _CHUNK) + _HUGE, dtype=np.uint8)
            self._left = chunk[-chunk.ctypes.data % _HUGE :]
        block, self._left = self._left[:size], self._left[size:]
        self._left = self._left[-self._left.ctypes.data % _LINE :]
        return block

    def trim(self) -> None:
        """Gives back to the system what the C library keeps of freed memory, where that is glibc.

        To build a network of int8 takes several times the memory that it has afterwards.
        """
        with suppress(OSError, AttributeError, TypeError):
            ctypes.CDLL(None).malloc_trim(0)


class ReusedMemory(Memory):
    """Takes memory back once no tensor has it any more: an older network's goes to a newer one.

    The system clears every page of fresh memory when it is first written to, which takes longer than to write
    the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._idle: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)
        self._is_first = True

    def _block(self, size: int) -> np.ndarray:
        try:
            block = self._idle[size].pop()
        except IndexError:
            block = super()._block(size)
        used = block[:]  # lives as long as the storage of the tensor
        weakref.finalize(used, self._idle[size].append, block).atexit = False
        return used

    def clone(self, tensor: Tensor) -> Tensor:
        """Returns a contiguous copy."""
        return self.empty(*tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)

    def trim(self) -> None:
        """Gives what nobody uses back to the system, a chunk once all of it is unused.

        What building one network frees is kept for building the next ones, once there are some.
        """
        for blocks in list(self._idle.values()):
            blocks.clear()
        if self._is_first:
            super().trim()
        self._is_first = False
