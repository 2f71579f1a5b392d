"""The int8 kernel of csrc/cpu as PyTorch operations: their contracts stand in int8.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._extension import extension
from gliclass_fast.kernels._rounded import Rounding
from gliclass_fast.kernels.compiled_linear import operations_by
from gliclass_fast.kernels.int8 import rounded_weight

INT8 = Rounding("int8", number=1, per_word=4, beside=8)  # an output's scale and the sum of its weights
_DEEPEST = 1 << 16  # sums of 255 * 127 fit into int32


def pack_int8(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """Packs [N, K] into bytes [N * (8 + 4 * ceil(K / 4))] as csrc/cpu/rounded_linear.h describes them.

    Raises ValueError for more inputs than the sums have bits for.
    """
    number, _ = _extension.instruction_set()
    width, depth = weight.shape
    if depth > _DEEPEST:
        raise ValueError(f"int8 takes at most {_DEEPEST} inputs, got {depth}")
    values, scales = rounded_weight(weight, in_pairs=extension().int8_adds_pairs(number))
    packed = empty(width * INT8.bytes_per_output(depth), dtype=torch.uint8, device=weight.device)
    beside = packed[: width * INT8.beside].view(2, -1)
    beside[0].view(torch.float32).copy_(scales[:, 0])
    beside[1].view(torch.int32).copy_(values.sum(1))
    INT8.pack(values, packed[width * INT8.beside :])
    return packed


linear_int8, linear_add_int8, norm_linear_int8 = operations_by(INT8.map, INT8.outputs)
