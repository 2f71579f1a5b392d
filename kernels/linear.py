"""Affine map with an activation: `activation(x @ weight.T + bias)`.

Shapes: x [T, K], weight [N, K] (as `pack_*` returned it), bias [N] or None -> [T, N], in x's dtype.
Activations are those of `ACTIVATIONS`; "gelu" is the exact erf form (Hendrycks & Gimpel, arXiv:1606.08415).

`pack_*` is called once per weight at load. oneDNN keeps float32 weights in its own blocked layout, which is
two to three times faster than the row-major GEMM behind `torch.nn.functional.linear` on AVX-512 machines.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": torch.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}
# activation -> (name, algorithm) of oneDNN's fused epilogue
_FUSED_BY_ONEDNN = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "relu": ("relu", ""),
    "tanh": ("tanh", ""),
}


def activation_reference(x: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](x)


def pack_reference(weight: Tensor) -> Tensor:
    return weight


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def pack_onednn(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def linear_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    fused = _FUSED_BY_ONEDNN.get(activation)
    name, algorithm = fused or ("none", "")
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)
    return out if fused else ACTIVATIONS[activation](out)
