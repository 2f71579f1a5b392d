"""Layers that backbones and scorers share."""

from __future__ import annotations

from torch import Tensor, nn

from gliclass_fast.ops import Ops


class NormLinear(nn.Module):
    """A linear map of a normed input, [T, C] -> [T, out], the norm's weight and bias folded into it.

    What remains of the norm, the statistics of every row, is part of the operation.
    """

    def __init__(
        self,
        width: int,
        out: int,
        ops: Ops,
        eps: float,
        norm_bias: bool = True,
        bias: bool = True,
        rms: bool = False,
    ) -> None:
        super().__init__()
        self.ops, self.eps = ops, eps
        self.norm = nn.RMSNorm(width) if rms else nn.LayerNorm(width, bias=norm_bias)
        self.linear = nn.Linear(width, out, bias=bias)

    def fold(self) -> None:
        """linear(norm(x)) = n @ (weight * scale).T + (weight @ shift + bias), n = (x - mean) / deviation.

        An RMSNorm subtracts no mean: it needs no sums, and has no shift.
        """
        weight, bias, shift = self.linear.weight, self.linear.bias, getattr(self.norm, "bias", None)
        if shift is not None:
            moved = weight.float() @ shift.float() + (0 if bias is None else bias.float())
            self.linear.bias = nn.Parameter(moved.to(weight.dtype), requires_grad=False)
        self.linear.weight = nn.Parameter(weight * self.norm.weight, requires_grad=False)
        rms = isinstance(self.norm, nn.RMSNorm)
        self.sums = None if rms else self.linear.weight.float().sum(1)
        del self.norm

    def forward(
        self, x: Tensor, activation: str = "none", gated: bool = False, add: Tensor | None = None
    ) -> Tensor:
        """See `norm_linear` in kernels/linear.py."""
        weight, bias = self.linear.weight, self.linear.bias
        out: Tensor = self.ops.norm_linear(x, weight, bias, self.sums, self.eps, activation, gated, add)
        return out


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of given weights."""
    layer = nn.Linear(1, 1, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
