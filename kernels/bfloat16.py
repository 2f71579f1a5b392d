"""Linear maps in bfloat16 on a CPU: inputs and weights are rounded, and everything else is float32.

    y = bf16(x) @ bf16(weight).T

The contracts are those of `linear`, float32 in and out, but for the rounding: it moves every factor by up to
1/256 of it, so an element of y is off by up to |x| @ |weight|.T / 127. Behind a norm, either the normed row
is rounded or the row before it is scaled.

`bf16` is the kernel of csrc/cpu (`compiled_bfloat16.py`). The reference serves packages that were built
without a compiler. It multiplies in float32 and takes float32's time; its weights are bfloat16 [N, K].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels.linear import ACTIVATIONS, norm_linear_by


def pack_bf16_reference(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    return empty(*weight.shape, dtype=torch.bfloat16, device=weight.device).copy_(weight)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.to(torch.bfloat16).float(), weight.float(), bias)


def linear_bf16_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return ACTIVATIONS[activation](_product(x, weight, bias))


def linear_add_bf16_reference(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return _product(x, weight, bias).add_(residual)


norm_linear_bf16_reference = norm_linear_by(_product)
