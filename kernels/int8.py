"""Linear maps in int8 on a CPU: weights have one scale per output, and inputs have one per token.

    y = (round(x / step) @ rows.T) * step * scale,   step [T, 1] = max|x| / 127 per row,
                                                     scale [N]   = max|weight| / limit per row

The contracts are those of `linear`, float32 in and out, but for the rounding: an element of y is off by up to
step / 2 * |weight|_1 + scale / 2 * |x|_1 + step * scale * K / 4. The products are exact. x86 processors
without VNNI add them in pairs in saturating int16, so the limit of weights is 64 there instead of 127.

`pack_int8` puts the scales, float32 [N], and the rows, int8 [N, K], one after the other into one buffer of
bytes, so that a weight stays one tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels._pieces import pieces
from gliclass_fast.kernels.linear import ACTIVATIONS, norm_linear_by

LIMIT = 127
TINY = torch.finfo(torch.float32).tiny  # A row of zeros has this step.


@lru_cache
def weight_limit() -> int:
    """Returns the largest weight with which this machine's products are exact; it tries the worst case."""
    largest = torch.full((17, 768), LIMIT, dtype=torch.int8)
    exact = torch._int_mm(largest, largest.t()) == 768 * LIMIT**2
    return LIMIT if bool(exact.all()) else 64


def pack_int8(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    rows, scales = _rounded(weight, weight_limit())
    return torch.cat((scales.flatten().view(torch.uint8), rows.flatten().view(torch.uint8)))


def _rounded(values: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Returns int8 values up to a limit, and the step [rows, 1] that they count."""
    step = values.abs().amax(1, keepdim=True).div_(limit).clamp_min_(TINY)
    return (values / step).round_().to(torch.int8), step


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    width = packed.numel() // (x.shape[1] + 4)
    scales, rows = packed[: 4 * width].view(torch.float32), packed[4 * width :].view(torch.int8)
    values, step = _rounded(x, LIMIT)
    sizes, weight = pieces(len(x)), rows.view(width, -1).t()
    values = F.pad(values, (0, 0, 0, sum(sizes) - len(x)))
    sums = torch.empty(len(values), width, dtype=torch.int32, device=x.device)
    for piece, out in zip(values.split(sizes), sums.split(sizes), strict=True):
        torch._int_mm(piece, weight, out=out)
    y = sums[: len(x)].float().mul_(step).mul_(scales)
    return y if bias is None else y.add_(bias)


def linear_int8(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    y = _product(x, weight, bias)
    if activation == "gelu":  # as in `ACTIVATIONS`, in place
        torch.ops.aten.gelu_(y.t())
        return y
    return ACTIVATIONS[activation](y)


def linear_add_int8(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return _product(x, weight, bias).add_(residual)


norm_linear_int8 = norm_linear_by(_product)
