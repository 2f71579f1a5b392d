"""The compiled extension (csrc/): this file tells whether it is there and what it holds.

The extension knows nothing of PyTorch: it takes addresses, sizes and a stream.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

compiled: Any = None  # the module of csrc/bindings.cpp
import_error: ImportError | None = None
try:
    from gliclass_fast.kernels import _compiled as compiled  # type: ignore[attr-defined,no-redef]
except ImportError as error:
    import_error = error


def extension() -> Any:
    """Returns the module of csrc/bindings.cpp, or None where it cannot be imported."""
    return compiled


@cache
def instruction_set() -> tuple[int, int]:
    """Returns the extension's number of the fastest set the processor has, and its floats per vector."""
    number, (_, lanes) = next(iter(compiled.instruction_sets().items()))
    return number, lanes


LAYOUT = 8  # the number of csrc/bindings.cpp; a build of other fields or arguments has another one
# what each part has that is called
_NAMES = {
    "cpu": (
        "instruction_sets", "Attention", "attention_cpu", "DistanceTable", "FeedForward", "feed_forward_cpu",
        "HeadNorm", "head_norm_cpu", "RoundedLinear", "int8_adds_pairs", "linear_int8_cpu",
        "multiplies_bfloat16", "linear_bfloat16_cpu",
        "LoraAdd", "lora_add_cpu",
        "PackedMap", "self_attention_scratch", "self_attention_cpu", "Layers", "layers_scratch", "layers_cpu",
        "linear_cpu", "norm_cpu", "Pairs", "pair_add_cpu", "pair_dot_cpu", "TableChange", "change_table_cpu",
    ),
    "cuda": ("check_device", "DisentangledAttention", "disentangled_attention_cuda"),
}  # fmt: skip


def absence(part: str) -> str | None:
    """Returns why a part, "cpu" or "cuda", has no compiled kernels, or None where it has them."""
    is_of_this_version = getattr(compiled, "layout", None) == LAYOUT
    if is_of_this_version and all(hasattr(compiled, name) for name in _NAMES[part]):
        return None
    here = Path(__file__).resolve()
    note = here.with_name("_not_built.txt")
    if note.exists():
        for line in note.read_text(encoding="utf-8").splitlines():
            name, _, reason = line.partition(": ")
            if name == part:
                return f"compiled kernels were not built: {reason}"
    if compiled is None:
        if (here.parents[1] / "csrc").is_dir() and not any(here.parent.glob("_compiled*.so")):
            return (
                "no compiled kernels: this is a source tree without a build; "
                "start Python in another folder, or pip install -e ."
            )
        return f"compiled kernels cannot be imported: {import_error}"
    return "the compiled extension is of another version: build it again"


def multiplies_bfloat16() -> bool:
    """Tells whether the compiled kernels have instructions of this processor that multiply bfloat16."""
    return absence("cpu") is None and bool(compiled.multiplies_bfloat16(instruction_set()[0]))


def cpu_description() -> str:
    """Returns in words what the extension holds for CPUs."""
    if reason := absence("cpu"):
        return reason
    return ", ".join(name for name, _ in compiled.instruction_sets().values()) + " (the first is used)"


def cuda_description() -> str:
    """Returns in words what the extension holds for GPUs."""
    if reason := absence("cuda"):
        return reason
    major, minor = divmod(compiled.cuda_version // 10, 100)
    names = ", ".join(f"sm_{name}" for name in compiled.cuda_architectures.split())
    return f"CUDA {major}.{minor} for {names}"


def address(tensor: Tensor | None, device: str = "cpu", strided_rows: bool = False) -> int:
    """Returns where a tensor begins, which compiled code then reads without a look at its strides; None is 0.

    Every tensor that compiled code reads or writes passes here. strided_rows: the code is told the stride of
    the first dimension. Raises ValueError for a tensor of other strides or on another kind of device.
    """
    if tensor is None:
        return 0
    if not (tensor.is_cpu if device == "cpu" else tensor.is_cuda):  # faster than `tensor.device.type`
        raise ValueError(f"needs a tensor on the {device} device, got one on {tensor.device}")
    if not (tensor.is_contiguous() or (strided_rows and tensor.stride(-1) == 1)):
        raise ValueError(f"needs a contiguous tensor, got strides {tensor.stride()} of {list(tensor.shape)}")
    return tensor.data_ptr()


def check_tensor(given: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Raises ValueError for a tensor of another dtype or shape."""
    if given.dtype is not dtype or given.shape != shape:
        raise ValueError(f"needs {dtype} {list(shape)}, got {given.dtype} {list(given.shape)}")
