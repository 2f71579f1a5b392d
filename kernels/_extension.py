"""The compiled extension (csrc/): whether it is there, and what it holds.

It knows nothing of PyTorch: it takes addresses, sizes and a stream.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

try:
    from gliclass_fast.kernels import _compiled  # type: ignore[attr-defined]
except ImportError as error:
    _compiled, _import_error = None, error


def extension() -> Any:
    """The module of csrc/bindings.cpp."""
    return _compiled


_MARKS = {"cpu": "Attention", "cuda": "DisentangledAttention"}  # what a part that was built has


def absence(part: str) -> str | None:
    """Why there are no compiled kernels of a part, "cpu" or "cuda", or None where there are."""
    if hasattr(_compiled, _MARKS[part]):
        return None
    note = Path(__file__).with_name("_not_built.txt")
    if note.exists():
        for line in note.read_text(encoding="utf-8").splitlines():
            name, _, reason = line.partition(": ")
            if name == part:
                return f"compiled kernels were not built: {reason}"
    if _compiled is None:
        return f"compiled kernels cannot be imported: {_import_error}"
    return "the compiled extension is of another version: build it again"


def cpu_description() -> str:
    """What is there for CPUs, in words."""
    if reason := absence("cpu"):
        return reason
    return ", ".join(name for name, _ in _compiled.instruction_sets().values()) + " (the first is used)"


def cuda_description() -> str:
    """What is there for GPUs, in words."""
    if reason := absence("cuda"):
        return reason
    major, minor = divmod(_compiled.cuda_version // 10, 100)
    names = ", ".join(f"sm_{name}" for name in _compiled.cuda_architectures.split())
    return f"CUDA {major}.{minor} for {names}"


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
