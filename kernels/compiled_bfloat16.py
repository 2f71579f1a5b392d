"""The bfloat16 kernel of csrc/cpu as PyTorch operations: their contracts stand in bfloat16.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gliclass_fast.kernels._rounded import Rounding
from gliclass_fast.kernels.compiled_linear import operations_by

BFLOAT16 = Rounding("bfloat16", number=2, together=2)


def pack_bf16(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """Packs [N, K] into bytes [N * 4 * ceil(K / 2)] as csrc/cpu/rounded_linear.h describes them."""
    width, depth = weight.shape
    packed = empty(width * BFLOAT16.bytes_per_output(depth), dtype=torch.uint8, device=weight.device)
    BFLOAT16.pack(weight.to(torch.bfloat16), packed)
    return packed


linear_bf16, linear_add_bf16, norm_linear_bf16 = operations_by(BFLOAT16.map, BFLOAT16.outputs)
