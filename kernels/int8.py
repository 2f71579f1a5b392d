"""Linear maps in int8 on a CPU: weights have one scale per output, and inputs have one per token.

    y = (round(x / step) @ rows.T) * step * scale,   step [T, 1] = (max(x, 0) - min(x, 0)) / 254 per row,
                                                     scale [N]   = max|weight| / 127 per row, or more:

processors without VNNI add two products up in 16 bits. For these the rounded weights of inputs 2k and 2k + 1
are at most 128 together, so that the largest sum of such a pair of |weight| over 128 is the least scale.

The contracts are those of `linear`, float32 in and out, but for the rounding: an element of y is off by up to
step / 2 * |weight|_1 + scale / 2 * |x|_1 + step * scale * K / 4. The products of rounded numbers and their
sums are exact.

`int8` is the kernel of csrc/cpu (`compiled_int8.py`). The reference serves packages that were built without
a compiler. It multiplies in float32, which rounds the sums as float32 does, and takes float32's time. Its
weights are float32 [N] scales and int8 [N, K] rows, one after the other in one buffer of bytes, so that a
weight stays one tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels.linear import ACTIVATIONS, norm_linear_by

LIMIT, PAIR = 127, 128
STEPS = 254  # of a row of inputs
TINY = torch.finfo(torch.float32).tiny  # A row of zeros has this step.
# So much larger a scale leaves pairs below PAIR before they are rounded, and at most PAIR after it.
ABOVE = 1 + 2**-20


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns whole numbers, at most STEPS apart in a row, and the step [rows, 1] that they count."""
    lowest, highest = values.aminmax(dim=1, keepdim=True)
    return _in_steps(values, highest.clamp(min=0) / STEPS - lowest.clamp(max=0) / STEPS)


def rounded_weight(weight: Tensor, in_pairs: bool) -> tuple[Tensor, Tensor]:
    """Returns int8 weights up to LIMIT, and the scale [N, 1]. in_pairs: neighbours reach PAIR at most."""
    sizes = F.pad(weight.abs(), (0, weight.shape[1] % 2))
    scale = sizes.amax(1, keepdim=True) / LIMIT
    if in_pairs:
        pairs = (sizes * (ABOVE / PAIR)).unflatten(1, (-1, 2)).sum(2)
        scale = torch.maximum(pairs.amax(1, keepdim=True), scale)
    values, scale = _in_steps(weight, scale)
    return values.to(torch.int8), scale


def _in_steps(values: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    step = step.clamp_min_(TINY)
    return (values / step).round_(), step


def pack_int8_reference(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    rows, scales = rounded_weight(weight, in_pairs=False)
    return torch.cat((scales.flatten().view(torch.uint8), rows.flatten().view(torch.uint8)))


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    width = packed.numel() // (x.shape[1] + 4)
    scales, rows = packed[: 4 * width].view(torch.float32), packed[4 * width :].view(torch.int8)
    values, step = rounded(x)
    y = F.linear(values, rows.view(width, -1).float()).mul_(step).mul_(scales)
    return y if bias is None else y.add_(bias)


def linear_int8_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return ACTIVATIONS[activation](_product(x, weight, bias))


def linear_add_int8_reference(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return _product(x, weight, bias).add_(residual)


norm_linear_int8_reference = norm_linear_by(_product)
