"""Layers that call their own operations: each is bound to an `Ops` when it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.ops import AdapterRows, Ops


class Embedding(nn.Embedding):
    """A table of vectors that a checkpoint fills: nothing is drawn for it.

    To draw numbers on the device "meta", torch imports a compiler, which takes seconds.
    """

    def reset_parameters(self) -> None:
        """Leaves the table as it is."""


class Linear(nn.Linear):
    """Maps x to x @ weight.T + bias, [*, in] -> [*, out]; `pack` gives the weight its operations' form.

    `lora` is the store of what adapters add to the map, None where none does. `rows` says which adapter every
    row of x has, None where none has any.
    """

    __call__: Callable[..., Tensor]
    lora: Any = None
    # what was done to the rows of the weight after it was loaded, and has to be done to those of an adapter
    rearranged: Callable[[Tensor], Tensor] | None = None
    # the outputs of the stock maps that it is made of, where they differ
    row_parts: tuple[int, ...] | None = None

    def __init__(self, width: int, out: int, ops: Ops, bias: bool = True) -> None:
        super().__init__(width, out, bias)
        self.ops = ops

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None, ops: Ops) -> Linear:
        """Makes a layer of given weights, [out, in] and [out]."""
        out, width = weight.shape
        with torch.device("meta"):
            layer = cls(width, out, ops, bias is not None)
        layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        if bias is not None:
            layer.bias = nn.Parameter(bias.contiguous(), requires_grad=False)
        return layer

    def pack(self) -> None:
        """Packs the weight; this runs once, after the weights are loaded and folded."""
        self.weight = nn.Parameter(self.ops.pack_linear(self.weight), requires_grad=False)

    def forward(self, x: Tensor, activation: str = "none", rows: AdapterRows | None = None) -> Tensor:
        if rows is None or self.lora is None:
            return self.ops.linear(x, self.weight, self.bias, activation)
        y = self.ops.linear(x, self.weight, self.bias)
        return self.ops.lora_add(y, x, rows, self.lora, activation)

    def add(self, x: Tensor, residual: Tensor, rows: AdapterRows | None = None) -> Tensor:
        """Returns residual + linear(x); it may overwrite the residual."""
        y = self.ops.linear_add(x, self.weight, self.bias, residual)
        return y if rows is None or self.lora is None else self.ops.lora_add(y, x, rows, self.lora)


def both(
    maps: tuple[Linear, Linear], xs: tuple[Tensor, Tensor], activation: str = "none"
) -> tuple[Tensor, Tensor]:
    """Runs two maps, which no adapter changes, each on rows of its own; on a GPU in one launch if it can."""
    weights, biases = zip(*((each.weight, each.bias) for each in maps), strict=True)
    ops = maps[0].ops
    return ops.grouped_linear(ops.linear, xs, weights, biases, activation)


class Norm(nn.Module):
    """Does LayerNorm (Ba et al., arXiv:1607.06450) or RMSNorm (Zhang & Sennrich, arXiv:1910.07467)."""

    __call__: Callable[..., Tensor]

    def __init__(self, width: int, ops: Ops, eps: float, bias: bool = True, rms: bool = False) -> None:
        super().__init__()
        self.ops, self.eps, self.rms = ops, eps, rms
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if bias and not rms else None

    def forward(self, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, self.weight, self.bias, self.eps, self.rms)

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Returns norm(x + residual)."""
        return self.ops.add_norm(x, residual, self.weight, self.bias, self.eps, self.rms)

    def embed(self, sources: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns norm(sum of table[rows] over the (table, rows) pairs), [T, C]."""
        assert not self.rms
        return self.ops.embedding_norm(sources, self.weight, self.bias, self.eps)


class NormLinear(nn.Module):
    """Maps a normed input linearly, [T, C] -> [T, out]; the norm's weight and bias are folded into the map.

    What remains of the norm, the statistics of every row, is part of the operation.
    """

    __call__: Callable[..., Tensor]

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
        self.norm = Norm(width, ops, eps, norm_bias, rms)
        self.linear = Linear(width, out, ops, bias)

    def fold_weights(self) -> None:
        """Folds the norm's scale and shift into the linear map.

        linear(norm(x)) = n @ (weight * scale).T + (weight @ shift + bias), n = (x - mean) / deviation.
        An RMSNorm subtracts no mean: it needs no sums, and has no shift.
        """
        weight, bias, shift = self.linear.weight, self.linear.bias, self.norm.bias
        if shift is not None:
            moved = weight.float() @ shift.float() + (0 if bias is None else bias.float())
            self.linear.bias = nn.Parameter(moved.to(weight.dtype), requires_grad=False)
        self.linear.weight = nn.Parameter(weight * self.norm.weight, requires_grad=False)
        self.sums = None if self.norm.rms else self.linear.weight.float().sum(1)

    def forward(
        self,
        x: Tensor,
        activation: str = "none",
        gated: bool = False,
        add: Tensor | None = None,
        rows: AdapterRows | None = None,
    ) -> Tensor:
        """Returns what `norm_linear` in kernels/linear.py describes; for `rows` see `Linear`."""
        weight, bias, lora = self.linear.weight, self.linear.bias, self.linear.lora
        if rows is None or lora is None:
            return self.ops.norm_linear(x, weight, bias, self.sums, self.eps, activation, gated, add)
        y = self.ops.norm_linear(x, weight, bias, self.sums, self.eps, "none", False, add)
        y = self.ops.lora_add(y, self.norm(x), rows, lora, "none" if gated else activation)
        if not gated:
            return y
        value, gate = y.chunk(2, dim=-1)
        return self.ops.activation(value, activation).mul_(gate)


class PairLinear(nn.Module):
    """Gives activation(weight @ [text; label] + bias), [L, out]; the text half runs once per prompt."""

    def __init__(self, text_width: int, label_width: int, out: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.text_width = ops, text_width
        self.whole = Linear(text_width + label_width, out, ops)

    def fold_weights(self) -> None:
        """Splits the layer into its text half, with the bias, and its label half."""
        weight, width = self.whole.weight, self.text_width
        self.text = Linear.of(weight[:, :width], self.whole.bias, self.ops)
        self.label = Linear.of(weight[:, width:], None, self.ops)
        del self.whole

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch, activation: str) -> Tensor:
        return self.ops.pair_add(*both((self.text, self.label), (text, labels)), batch.label_text, activation)
