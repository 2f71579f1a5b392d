"""Cases of the linear maps, as those of cases.py."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels.linear import ACTIVATIONS
from tests.kernels.causal_cases import Slow
from tests.kernels.layouts import slow_norm


def linear(
    dtype: torch.dtype,
    activation: str = "gelu",
    rows: int = 17,
    biased: bool = True,
    depth: int = 33,
    width: int = 38,
) -> tuple[Any, Slow]:
    x, weight, bias = (torch.randn(*s).to(dtype) for s in ((rows, depth), (width, depth), (width,)))
    offset = bias if biased else None
    return (x, weight, offset, activation), lambda p: ACTIVATIONS[activation](affine(x, weight, offset, p))


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, precision: torch.dtype) -> Tensor:
    y = x.to(precision) @ weight.to(precision).T
    return y if bias is None else y + bias.to(precision)


def linear_add(dtype: torch.dtype, biased: bool) -> tuple[Any, Slow]:
    (x, weight, bias, _), _ = linear(dtype, biased=biased)
    residual = torch.randn(17, 38).to(dtype)
    # a copy goes in: the operation may overwrite it
    return (x, weight, bias, residual.clone()), lambda p: residual.to(p) + affine(x, weight, bias, p)


def norm_linear(
    dtype: torch.dtype,
    activation: str = "gelu",
    rows: int = 17,
    biased: bool = True,
    gated: bool = False,
    added: bool = False,
    rms: bool = False,
    depth: int = 33,
    width: int = 38,
) -> tuple[Any, Slow]:
    (x, weight, bias, _), _ = linear(dtype, rows=rows, biased=biased, depth=depth, width=width)
    x = (3 * x.float() + torch.randn(rows, 1)).to(dtype)
    add = torch.randn(rows, width).to(dtype) if added else None

    def slow(precision: torch.dtype) -> Tensor:
        y = affine(slow_norm(x.to(precision), torch.ones(depth), None, rms), weight, bias, precision)
        if gated:
            return ACTIVATIONS[activation](y[:, : width // 2]) * y[:, width // 2 :]
        return ACTIVATIONS[activation](y if add is None else y + add.to(precision))

    return (x, weight, bias, None if rms else weight.float().sum(1), 1e-7, activation, gated, add), slow


def grouped_linear(
    dtype: torch.dtype,
    activation: str = "none",
    rows: tuple[int, int] = (17, 70),
    widths: tuple[int, int] = (38, 38),
    biased: tuple[bool, bool] = (True, True),
) -> tuple[Any, Slow]:
    maps = [
        linear(dtype, activation, count, bias, width=width)
        for count, bias, width in zip(rows, biased, widths, strict=True)
    ]
    xs, weights, biases, _ = zip(*(arguments for arguments, _ in maps), strict=True)
    return (None, xs, weights, biases, activation), lambda p: tuple(slow(p) for _, slow in maps)


CASES: dict[str, Any] = {
    **{f"linear, {name}": ("linear", partial(linear, activation=name)) for name in ACTIVATIONS},
    **{
        f"linear, {rows} rows": ("linear", partial(linear, rows=rows, biased=False)) for rows in (1, 63, 1030)
    },
    **{
        f"linear add, bias {biased}": ("linear_add", partial(linear_add, biased=biased))
        for biased in (True, False)
    },
    **{
        f"norm and linear, {rows} rows{', gated' * gated}{', added to' * added}": (
            "norm_linear",
            partial(norm_linear, rows=rows, gated=gated, added=added),
        )
        for rows in (17, 1030)
        for gated, added in ((False, False), (True, False), (False, True))
    },
    "norm and linear, silu, gated, no bias": (
        "norm_linear",
        partial(norm_linear, activation="silu", biased=False, gated=True),
    ),
    **{  # halves of whole vectors, and more of both than a block has
        f"norm and linear, {activation}, gated, {width // 2} gates": (
            "norm_linear",
            partial(norm_linear, activation=activation, rows=70, gated=True, width=width),
        )
        for activation, width in (("gelu", 96), ("silu", 32), ("gelu_tanh", 160))
    },
    **{
        f"RMS norm and linear, {rows} rows{', gated' * gated}": (
            "norm_linear",
            partial(norm_linear, rows=rows, gated=gated, biased=False, rms=True),
        )
        for rows, gated in ((17, False), (17, True), (1030, True))
    },
    "norm and linear alone": ("norm_linear", partial(norm_linear, activation="none")),
    **{
        f"grouped linear, {activation}": ("grouped_linear", partial(grouped_linear, activation=activation))
        for activation in ("none", "gelu", "relu")
    },
    **{
        f"grouped linear, rows {rows}": ("grouped_linear", partial(grouped_linear, rows=rows))
        for rows in ((1, 1), (64, 3), (1, 128))
    },
    **{
        f"grouped linear, bias {biased}": ("grouped_linear", partial(grouped_linear, biased=biased))
        for biased in ((True, False), (False, True), (False, False))
    },
    "grouped linear, other widths": ("grouped_linear", partial(grouped_linear, widths=(38, 20))),
    "grouped linear, many rows": ("grouped_linear", partial(grouped_linear, rows=(3, 1024))),
}
