"""The int8 kernel of csrc/cpu as PyTorch operations: their contracts stand in int8.py.

A call is one kernel: it norms and rounds the rows, multiplies, and scales, activates and adds in registers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_linear import FUSED, operations_by
from gliclass_fast.kernels.int8 import rounded_weight

NORMS = {None: 0, "layer": 1, "rms": 2}  # as csrc/cpu/int8.h numbers them
_FOUR = 4  # weights of so many inputs lie together
_BESIDE = 8  # bytes of an output's scale and of its sum
_RANGE = 2  # words of a row's step and zero
_DEEPEST = 1 << 16  # sums of 255 * 127 fit into int32


def bytes_per_output(depth: int) -> int:
    return _BESIDE + ceil_div(depth, _FOUR) * _FOUR


def pack_int8(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """Packs [N, K] into bytes [N * (8 + 4 * ceil(K / 4))] as csrc/cpu/int8.h describes them.

    Raises ValueError for more inputs than the sums have bits for.
    """
    number, lanes = _extension.instruction_set()
    width, depth = weight.shape
    if depth > _DEEPEST:
        raise ValueError(f"int8 takes at most {_DEEPEST} inputs, got {depth}")
    padded, whole = ceil_div(depth, _FOUR) * _FOUR, width // lanes * lanes
    values, scales = rounded_weight(weight, in_pairs=extension().int8_adds_pairs(number))
    packed = empty(width * bytes_per_output(depth), dtype=torch.uint8, device=weight.device)
    beside, rows = packed[: width * _BESIDE].view(2, -1), packed[width * _BESIDE :].view(torch.int8)
    beside[0].view(torch.float32).copy_(scales[:, 0])
    beside[1].view(torch.int32).copy_(values.sum(1))
    values = F.pad(values, (0, padded - depth))
    panels = values[:whole].view(-1, lanes, padded // _FOUR, _FOUR).transpose(1, 2)
    rows[: whole * padded].view(panels.shape).copy_(panels)
    rows[whole * padded :] = values[whole:].flatten()
    return packed


def _map(
    x: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    activation: str = "none",
    gated: bool = False,
    norm: str | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Returns activation(normed x @ weight.T + bias) + residual, or what is gated."""
    rows, depth = x.shape
    number, lanes = _extension.instruction_set()
    width, left = divmod(packed.numel(), bytes_per_output(depth))
    if left or not depth or packed.dtype is not torch.uint8:
        raise ValueError(f"rows of {depth} values do not fit {packed.numel()} values of {packed.dtype}")
    if x.stride(1) != 1:
        x = x.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    for given, shape in ((x, (rows, depth)), (bias, (width,)), (residual, (rows, width))):
        if given is not None and (given.shape != shape or given.dtype is not torch.float32):
            raise ValueError(f"needs float32 {list(shape)}, got {given.dtype} {list(given.shape)}")
    out = _buffers.empty(rows, width // 2 if gated else width)
    ranges = torch.empty(rows, _RANGE, dtype=torch.int32, device=x.device)
    values = torch.empty(rows, ceil_div(depth, lanes) * lanes, dtype=torch.uint8, device=x.device)
    arguments = extension().Int8Linear(
        x=address(x, strided_rows=True),
        x_stride=x.stride(0),
        weight=address(packed),
        bias=address(bias),
        residual=address(residual),
        out=address(out),
        values=address(values),
        ranges=address(ranges),
        rows=rows,
        depth=depth,
        width=width,
        norm=NORMS[norm],
        eps=eps,
        activation=FUSED[activation],
        gated=gated,
        threads=thread_count(),
    )
    extension().linear_int8_cpu(number, arguments)
    return out


linear_int8, linear_add_int8, norm_linear_int8 = operations_by(
    _map, lambda x, packed: packed.numel() // bytes_per_output(x.shape[1])
)
