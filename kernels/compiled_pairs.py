"""The pairs of csrc/cpu as PyTorch operations: their contracts stand in pairs.py.

Both raise IndexError for an owner that is no row of the texts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_linear import FUSED
from gliclass_fast.kernels.linear import ACTIVATIONS


def pair_add_cpp(text: Tensor, labels: Tensor, owner: Tensor, activation: str = "none") -> Tensor:
    if activation not in FUSED:
        return ACTIVATIONS[activation](pair_add_cpp(text, labels, owner))
    return _pairs(extension().pair_add_cpu, labels.shape, text, labels, owner, activation)


def pair_dot_cpp(text: Tensor, labels: Tensor, owner: Tensor) -> Tensor:
    return _pairs(extension().pair_dot_cpu, labels.shape[:1], text, labels, owner)


def _pairs(
    kernel: Callable[..., None],
    shape: torch.Size,
    text: Tensor,
    labels: Tensor,
    owner: Tensor,
    activation: str = "none",
) -> Tensor:
    """Runs a kernel, whose result has this shape."""
    text, labels, owner = text.contiguous(), labels.contiguous(), owner.contiguous()
    rows, width = labels.shape
    for given in (text, labels):
        if given.dtype is not torch.float32 or given.shape[1:] != (width,) or not width:
            raise ValueError(f"needs float32 [*, {width}], got {given.dtype} {list(given.shape)}")
    if owner.dtype is not torch.int32 or owner.shape != (rows,):
        raise ValueError(f"needs int32 [{rows}], got {owner.dtype} {list(owner.shape)}")
    out = torch.empty(shape, dtype=torch.float32, device=labels.device)
    arguments = extension().Pairs(
        text=address(text), labels=address(labels), owner=address(owner), out=address(out), rows=rows,
        width=width, activation=FUSED[activation], threads=thread_count(),
    )  # fmt: skip
    kernel(_extension.instruction_set()[0], arguments, len(text))
    return out
