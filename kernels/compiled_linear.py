"""The linear kernel of csrc/cpu as PyTorch operations: their contracts stand in linear.py.

oneDNN compiles code per number of rows, and keeps it: a process grows with every length of text it meets.
This kernel is compiled once, with the package, and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_norm import normed_cpp
from gliclass_fast.kernels.linear import ACTIVATIONS, finish

FUSED = {"none": 0, "gelu": 1, "relu": 2, "silu": 3, "gelu_tanh": 4}  # as csrc/cpu/linear.h numbers them


def pack_cpp(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    """Packs [N, K] into panels [N // lanes, K, lanes], then the rows that fill no panel; the shape stays."""
    _, lanes = _extension.instruction_set()
    width, depth = weight.shape
    whole = width // lanes * lanes
    packed = empty(width, depth, dtype=weight.dtype, device=weight.device)
    packed[:whole].view(-1, depth, lanes).copy_(weight[:whole].view(-1, lanes, depth).transpose(1, 2))
    packed[whole:] = weight[whole:]
    return packed


def map_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: str = "none",
    gated: bool = False,
) -> Tensor:
    """Returns activation(x @ weight.T + bias) + residual, of which `gated` takes the second half as gates."""
    outputs, depth = weight.shape
    rows, width = x.shape[0], outputs // 2 if gated else outputs
    if x.stride(1) != 1:
        x = x.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    _check(x, weight, bias, residual)
    out = _buffers.empty(rows, width)
    extension().linear_cpu(
        _extension.instruction_set()[0], address(x, strided_rows=True), x.stride(0), address(weight),
        address(bias), address(residual), address(out), rows, depth, width, FUSED[activation], gated,
        thread_count(),
    )  # fmt: skip
    return out


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> None:
    """Raises ValueError where the kernel would read something other than what it is given."""
    (rows, depth), width = x.shape, weight.shape[0]
    if depth != weight.shape[1] or not depth:
        raise ValueError(f"rows of {depth} values do not fit a weight for {weight.shape[1]}")
    for each, shape in ((bias, (width,)), (residual, (rows, width))):
        if each is not None and each.shape != shape:
            raise ValueError(f"needs {list(shape)}, got {list(each.shape)}")
    for each in (x, weight, bias, residual):
        if each is not None and each.dtype is not torch.float32:
            raise ValueError(f"needs float32, got {each.dtype}")


def _map(x: Tensor, *given: Any, norm: str | None = None, eps: float = 0.0, **named: Any) -> Tensor:
    """Does what `map_rows` does, behind a norm ("layer" or "rms") where there is one."""
    return map_rows(x if norm is None else normed_cpp(x, eps, norm == "rms"), *given, **named)


def operations_by(
    run: Callable[..., Tensor], outputs: Callable[[Tensor, Tensor], int]
) -> tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]:
    """Returns `linear`, `linear_add` and `norm_linear` around a kernel.

    run: takes (x, packed weight, bias, residual=None, activation="none", gated=False, norm=None, eps=0.0).
    outputs: gives the number of outputs of (x, packed weight).
    """

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
        if activation in FUSED:
            return run(x, weight, bias, activation=activation)
        return ACTIVATIONS[activation](run(x, weight, bias))

    def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
        return run(x, weight, bias, residual)

    def norm_linear(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sums: Tensor | None,
        eps: float,
        activation: str = "none",
        gated: bool = False,
        add: Tensor | None = None,
    ) -> Tensor:
        _, lanes = _extension.instruction_set()
        norm = "rms" if sums is None else "layer"
        whole = not gated or outputs(x, weight) % (2 * lanes) == 0  # Both halves fill vectors.
        if whole and add is None and activation in FUSED:
            return run(x, weight, bias, None, activation, gated, norm=norm, eps=eps)
        return finish(run(x, weight, bias, norm=norm, eps=eps), activation, gated, add)

    return linear, linear_add, norm_linear


linear_cpp, linear_add_cpp, norm_linear_cpp = operations_by(_map, lambda x, weight: weight.shape[0])
