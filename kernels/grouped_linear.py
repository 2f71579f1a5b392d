"""Two linear maps, each of rows of its own, which a GPU runs in one launch if rows are few (a grouped GEMM).

- grouped_linear: activation(x @ weight.T + bias) of both maps. Shapes, of the first and the second: x [T, K]
  and [U, K], weight [N, K], bias [N] or None -> [T, N] and [U, N]. The second may have a K and an N of its
  own.

`linear` is the operation of linear.py, which runs each map alone where their shapes differ, and where there
are so many rows that a launch takes little of the time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._triton import tl, triton
from gliclass_fast.kernels.linear import FEW, TILE, activated

Both = tuple[Tensor, Tensor]
Linear = Callable[[Tensor, Tensor, Tensor | None, str], Tensor]


def grouped_linear_reference(
    linear: Linear,
    xs: Both,
    weights: Both,
    biases: tuple[Tensor | None, Tensor | None],
    activation: str = "none",
) -> Both:
    first, second = map(linear, xs, weights, biases, (activation, activation))
    return first, second


@triton.jit(do_not_specialize=["rows", "other_rows"])
def _grouped_kernel(
    x, other_x, weight, other_weight, bias, other_bias, out, rows, other_rows, WIDTH: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
    ACTIVATION: tl.constexpr, BIAS: tl.constexpr, OTHER_BIAS: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(rows, BLOCK_ROWS)
    other = tl.program_id(0) >= blocks  # whether these rows are the second map's
    x, weight = tl.where(other, other_x, x), tl.where(other, other_weight, weight)
    count, first_out = tl.where(other, other_rows, rows), tl.where(other, rows, 0)
    row = (tl.program_id(0) - tl.where(other, blocks, 0)) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    depth = tl.arange(0, BLOCK_DEPTH)
    valid, within_width = row < count, column < WIDTH
    x_place = x + row.to(tl.int64)[:, None] * DEPTH + depth[None, :]
    w_place = weight + column.to(tl.int64)[:, None] * DEPTH + depth[None, :]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    for start in range(0, DEPTH, BLOCK_DEPTH):
        within_depth = (start + depth < DEPTH)[None, :]
        a = tl.load(x_place + start, mask=valid[:, None] & within_depth, other=0.0)
        b = tl.load(w_place + start, mask=within_width[:, None] & within_depth, other=0.0)
        acc = tl.dot(a, tl.trans(b), acc, input_precision="ieee")
    if BIAS:
        end = tl.where(other, 0, WIDTH)
        acc += tl.load(bias + column, mask=column < end, other=0.0).to(tl.float32)[None, :]
    if OTHER_BIAS:
        end = tl.where(other, WIDTH, 0)
        acc += tl.load(other_bias + column, mask=column < end, other=0.0).to(tl.float32)[None, :]
    acc = activated(acc, ACTIVATION, x.dtype.element_ty == tl.float32)
    place = (first_out + row).to(tl.int64)[:, None] * WIDTH + column[None, :]
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=valid[:, None] & within_width[None, :])


def grouped_linear_triton(
    linear: Linear,
    xs: Both,
    weights: Both,
    biases: tuple[Tensor | None, Tensor | None],
    activation: str = "none",
) -> Both:
    rows, other_rows = (len(x) for x in xs)
    weight, other_weight = weights
    if weight.shape != other_weight.shape or rows + other_rows > FEW:
        return grouped_linear_reference(linear, xs, weights, biases, activation)
    x, other_x = (each.contiguous() for each in xs)
    bias, other_bias = biases
    width, depth = weight.shape
    out = torch.empty(rows + other_rows, width, dtype=x.dtype, device=x.device)
    block_rows, block_width, block_depth, warps, stages = TILE[x.element_size(), False]
    grid = (ceil_div(rows, block_rows) + ceil_div(other_rows, block_rows), ceil_div(width, block_width))
    _grouped_kernel[grid](
        x, other_x, weight, other_weight, weight if bias is None else bias,
        weight if other_bias is None else other_bias, out, rows, other_rows, WIDTH=width, DEPTH=depth,
        BLOCK_ROWS=block_rows, BLOCK_WIDTH=block_width, BLOCK_DEPTH=block_depth, ACTIVATION=activation,
        BIAS=bias is not None, OTHER_BIAS=other_bias is not None, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out[:rows], out[rows:]
