"""Memory for weights that are built again and again: what an older network no longer uses, a newer one gets.

The system clears every page of fresh memory when it is first written to, which takes longer than to write
the weights.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from math import prod

import numpy as np
import torch
from torch import Tensor

_LINE = 64  # bytes of a cache line, at which tensors start
_SMALL = 1 << 16  # bytes, up to which fresh memory costs little


class Memory:
    """Gives out memory on the host, and takes it back once no tensor has it any more."""

    def __init__(self) -> None:
        self._idle: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)

    def empty(
        self, *shape: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Returns what `torch.empty` does; the memory of small tensors, and that of a GPU, is torch's."""
        size = prod(shape) * dtype.itemsize
        if torch.device(device).type != "cpu" or size < _SMALL:
            return torch.empty(shape, dtype=dtype, device=device)
        try:
            block = self._idle[size].pop()
        except IndexError:
            block = np.empty(size + _LINE, dtype=np.uint8)
        start = -block.ctypes.data % _LINE
        used = block[start : start + size]  # lives as long as the storage of the tensor
        weakref.finalize(used, self._idle[size].append, block).atexit = False
        return torch.from_numpy(used).view(dtype).view(shape)

    def clone(self, tensor: Tensor) -> Tensor:
        """Returns a contiguous copy."""
        return self.empty(*tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)

    def trim(self) -> None:
        """Gives what nobody uses back to the system."""
        for blocks in list(self._idle.values()):
            blocks.clear()
