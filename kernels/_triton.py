"""Triton and launch arithmetic: stand-ins let kernel files be imported where Triton is absent."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

try:
    import triton
    import triton.language as tl
except ImportError:

    class _Absent:
        """`@triton.jit` gives the function back; nothing can be launched."""

        @staticmethod
        def jit(function: Any = None, **options: Any) -> Any:
            return function or (lambda f: f)

    triton = tl = _Absent()

__all__ = ["capability", "power_of_2", "processors", "tl", "triton"]


def power_of_2(n: int, least: int = 16) -> int:
    """Returns the smallest power of two >= n, but at least `least`: tl.dot needs 16 on every side."""
    return max(least, 1 << (n - 1).bit_length())


@lru_cache
def capability(device: torch.device) -> tuple[int, int]:
    """Returns the compute capability of a GPU, or the oldest supported one for the interpreter."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (8, 0)


@lru_cache
def processors(device: torch.device) -> int:
    """Returns the multiprocessors of a GPU, or 1 for the interpreter, which runs one program at a time."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
