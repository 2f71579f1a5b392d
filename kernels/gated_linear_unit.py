"""Gated linear unit: `activation(x[:, :F]) * x[:, F:]` (Shazeer, arXiv:2002.05202; GeGLU with "gelu").

Shapes: x [T, 2F] -> [T, F], in x's dtype.
"""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.kernels.linear import ACTIVATIONS


def gated_linear_unit_reference(x: Tensor, activation: str) -> Tensor:
    value, gate = x.chunk(2, dim=-1)
    return ACTIVATIONS[activation](value).mul_(gate)
