"""Layer normalisation, alone, after a sum of embeddings, and after a residual sum.

LayerNorm (Ba et al., arXiv:1607.06450): (x - mean) / sqrt(var + eps) * weight + bias over the last dimension,
with statistics in float32. Inputs and outputs share one dtype; weight and bias are [C], bias may be None.

- layer_norm(x [T, C]) -> [T, C]
- embedding_norm(sources: (table [V, C], rows int32 [T]) pairs) -> LayerNorm of the sum of the gathered rows,
  [T, C]
- add_norm(x [T, C], residual [T, C]) -> (x + residual, LayerNorm(x + residual)), both [T, C]
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    full = F.layer_norm(x.float(), x.shape[-1:], weight.float(), None if bias is None else bias.float(), eps)
    return full.to(x.dtype)


def embedding_norm_reference(
    sources: Sequence[tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    (table, rows), *rest = sources
    total = F.embedding(rows, table)
    for table, rows in rest:
        total = total + F.embedding(rows, table)
    return layer_norm_reference(total, weight, bias, eps)


def add_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    total = x + residual
    return total, layer_norm_reference(total, weight, bias, eps)
