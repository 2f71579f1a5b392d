"""Linear maps in int8 on a CPU: weights with one scale per output, inputs with one per token.

    y = (round(x / step) @ rows.T) * step * scale,   step [T, 1] = max|x| / 127 per row,
                                                     scale [N]   = max|weight| / 127 per row

Contracts as in `linear`, float32 in and out, but for the rounding: an element of y is off by at most
step / 2 * |weight|_1 + scale / 2 * |x|_1 + step * scale * K / 4. Products accumulate in int32, exactly.

`pack_int8` puts the scales, float32 [N], and the rows, int8 [N, K], one after the other into one buffer of
bytes, so that a weight stays one tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.kernels.linear import ACTIVATIONS, finished, normed

LIMIT = 127
TINY = torch.finfo(torch.float32).tiny  # of rows of zeros


def pack_int8(weight: Tensor) -> Tensor:
    rows, scales = _rounded(weight)
    return torch.cat((scales.flatten().view(torch.uint8), rows.flatten().view(torch.uint8)))


def _rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and the step [rows, 1] they count."""
    step = values.abs().amax(1, keepdim=True).div_(LIMIT).clamp_min_(TINY)
    return (values / step).round_().to(torch.int8), step


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    width = packed.numel() // (x.shape[1] + 4)
    scales, rows = packed[: 4 * width].view(torch.float32), packed[4 * width :].view(torch.int8)
    values, step = _rounded(x)
    y = torch._int_mm(values, rows.view(width, -1).t()).float().mul_(step).mul_(scales)
    return y if bias is None else y.add_(bias)


def linear_int8(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    y = _product(x, weight, bias)
    if activation == "gelu":
        out: Tensor = torch.ops.aten.gelu_(y)
        return out
    return ACTIVATIONS[activation](y)


def linear_add_int8(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return _product(x, weight, bias).add_(residual)


def norm_linear_int8(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sums: Tensor,
    eps: float,
    activation: str = "none",
    gated: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    return finished(_product(normed(x, eps), weight, bias), activation, gated, add)
