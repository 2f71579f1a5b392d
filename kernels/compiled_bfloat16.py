"""Linear maps in bfloat16 on a CPU: inputs and weights are rounded, and everything else is float32.

    y = bf16(x) @ bf16(weight).T

The contracts are those of `linear`, float32 in and out, but for the rounding: it moves every factor by up to
1/256 of it, so an element of y is off by up to |x| @ |weight|.T / 127. Behind a norm, it is the row before it
is scaled that is rounded. Processors with instructions for bfloat16 take numbers below 2^-126 for 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gliclass_fast.kernels._rounded import Rounding
from gliclass_fast.kernels.compiled_linear import operations_by

BFLOAT16 = Rounding("bfloat16", number=2, per_word=2)


def pack_bfloat16(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """Packs [N, K] into bytes [N * 4 * ceil(K / 2)] as csrc/cpu/rounded_linear.h describes them."""
    width, depth = weight.shape
    packed = empty(width * BFLOAT16.bytes_per_output(depth), dtype=torch.uint8, device=weight.device)
    BFLOAT16.pack(weight.to(torch.bfloat16), packed)
    return packed


linear_bfloat16, linear_add_bfloat16, norm_linear_bfloat16 = operations_by(BFLOAT16.map, BFLOAT16.outputs)
