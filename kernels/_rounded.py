"""The call of csrc/cpu's linear maps that round inputs and weights: those of int8 and of bfloat16.

A call is one kernel: it norms and rounds the rows, multiplies, and scales, activates and adds in registers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_linear import FUSED

NORMS = {None: 0, "layer": 1, "rms": 2}  # as csrc/cpu/rounded_linear.h numbers them
_WORD = 4  # bytes
_RANGE = 2  # words of what a row's values mean


@dataclass(frozen=True, slots=True)
class Rounding:
    """Describes a kind of csrc/cpu/rounded_linear.h."""

    name: str
    number: int  # as csrc/cpu/packed_map.h has it
    per_word: int  # so many inputs are a word
    beside: int = 0  # bytes of an output that lie before all words

    def bytes_per_output(self, depth: int) -> int:
        return self.beside + ceil_div(depth, self.per_word) * _WORD

    def outputs(self, x: Tensor, packed: Tensor) -> int:
        """Returns the number of outputs of a packed weight for the inputs x [rows, depth]."""
        return packed.numel() // self.bytes_per_output(x.shape[1])

    def pack(self, values: Tensor, to: Tensor) -> None:
        """Lays rounded weights [N, K] out in the bytes that words take: panels, then what fills none."""
        _, lanes = _extension.instruction_set()
        (width, depth), rows = values.shape, to.view(values.dtype)
        words, whole = ceil_div(depth, self.per_word), width // lanes * lanes
        values = F.pad(values, (0, words * self.per_word - depth))
        panels = values[:whole].view(-1, lanes, words, self.per_word).transpose(1, 2)
        rows[: panels.numel()].view(panels.shape).copy_(panels)
        rows[panels.numel() :] = values[whole:].flatten()

    def map(
        self,
        x: Tensor,
        packed: Tensor,
        bias: Tensor | None,
        residual: Tensor | None = None,
        activation: str = "none",
        gated: bool = False,
        norm: str | None = None,
        eps: float = 0.0,
    ) -> Tensor:
        """Returns activation(normed x @ weight.T + bias) + residual, or what is gated."""
        rows, depth = x.shape
        number, lanes = _extension.instruction_set()
        width, left = divmod(packed.numel(), self.bytes_per_output(depth))
        if left or not depth or packed.dtype is not torch.uint8:
            raise ValueError(f"rows of {depth} values do not fit {packed.numel()} values of {packed.dtype}")
        if x.stride(1) != 1:
            x = x.contiguous()
        bias = None if bias is None else bias.contiguous()
        residual = None if residual is None else residual.contiguous()
        for given, shape in ((x, (rows, depth)), (bias, (width,)), (residual, (rows, width))):
            if given is not None and (given.shape != shape or given.dtype is not torch.float32):
                raise ValueError(f"needs float32 {list(shape)}, got {given.dtype} {list(given.shape)}")
        out = _buffers.empty(rows, width // 2 if gated else width)
        ranges = torch.empty(rows, _RANGE, dtype=torch.int32, device=x.device)
        padded = ceil_div(depth, lanes) * lanes * _WORD // self.per_word
        values = torch.empty(rows, padded, dtype=torch.uint8, device=x.device)
        arguments = extension().RoundedLinear(
            x=address(x, strided_rows=True),
            x_stride=x.stride(0),
            weight=address(packed),
            bias=address(bias),
            residual=address(residual),
            out=address(out),
            values=address(values),
            ranges=address(ranges),
            rows=rows,
            depth=depth,
            width=width,
            norm=NORMS[norm],
            eps=eps,
            activation=FUSED[activation],
            gated=gated,
            threads=thread_count(),
        )
        getattr(extension(), f"linear_{self.name}_cpu")(number, arguments)
        return out
