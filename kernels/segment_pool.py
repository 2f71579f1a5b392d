"""Reduction of the rows of every span of a packed buffer: it maps every value first.

Shapes: rows [T, C], spans int32 [M, 2] (start, end; ascending, not overlapping) -> [M, C], in rows' dtype.
An empty span gives zeros for sums and -inf for maxima. Sums are float32. No value is read back to the host.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._triton import tl, triton

# The table maps a name to (map, whether the reduction is a sum).
REDUCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "sum": (lambda x: x, True),
    "max": (lambda x: x, False),
    "abs_sum": (torch.abs, True),
    "abs_max": (torch.abs, False),
    "square_sum": (torch.square, True),
}
BLOCK_ROWS, BLOCK_COLUMNS = 64, 64  # A row fills whole sectors of memory, and a span takes few steps.


def segment_pool_reference(rows: Tensor, spans: Tensor, reduce: str) -> Tensor:
    mapped, is_sum = REDUCTIONS[reduce]
    values = mapped(rows.float())
    count = spans.shape[0]
    places = torch.arange(rows.shape[0], dtype=spans.dtype, device=rows.device)
    starts, ends = spans[:, 0].contiguous(), spans[:, 1]
    owner = torch.searchsorted(starts, places, right=True) - 1
    outside = (owner < 0) | (places >= ends[owner.clamp(min=0)])
    owner = owner.masked_fill(outside, count)  # Rows of no span go to a spare slot.
    fill = 0.0 if is_sum else float("-inf")
    pooled = torch.full((count + 1, rows.shape[1]), fill, dtype=torch.float32, device=rows.device)
    if is_sum:
        pooled.index_add_(0, owner, values)
    else:
        pooled.scatter_reduce_(0, owner[:, None].expand_as(rows), values, "amax")
    return pooled[:count].to(rows.dtype)


@triton.jit
def _pool_kernel(
    rows, spans, out, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    IS_SUM: tl.constexpr, ABS: tl.constexpr, SQUARE: tl.constexpr,
):  # fmt: skip
    span = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, end = tl.load(spans + 2 * span), tl.load(spans + 2 * span + 1)
    empty = 0.0 if IS_SUM else float("-inf")
    pooled = tl.full([COLUMNS], empty, tl.float32)
    broken = tl.zeros([COLUMNS], tl.int32)  # It counts the NaN values, which a maximum leaves out.
    for first in range(start, end, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < end)[:, None] & (column < WIDTH)[None, :]
        values = tl.load(rows + row.to(tl.int64)[:, None] * WIDTH + column[None, :], mask=mask, other=0.0)
        values = values.to(tl.float32)
        if ABS:
            values = tl.abs(values)
        if SQUARE:
            values *= values
        values = tl.where(mask, values, empty)
        if IS_SUM:
            pooled += tl.sum(values, 0)
        else:
            pooled = tl.maximum(pooled, tl.max(values, 0))
            broken += tl.sum((values != values).to(tl.int32), 0)
    pooled = tl.where(broken > 0, float("nan"), pooled)
    tl.store(out + span * WIDTH + column, pooled.to(out.dtype.element_ty), mask=column < WIDTH)


def segment_pool_triton(rows: Tensor, spans: Tensor, reduce: str) -> Tensor:
    rows, spans = rows.contiguous(), spans.contiguous()
    count, width = spans.shape[0], rows.shape[1]
    out = torch.empty(count, width, dtype=rows.dtype, device=rows.device)
    _pool_kernel[(count, ceil_div(width, BLOCK_COLUMNS))](
        rows, spans, out, WIDTH=width, ROWS=BLOCK_ROWS, COLUMNS=BLOCK_COLUMNS,
        IS_SUM=REDUCTIONS[reduce][1], ABS=reduce.startswith("abs"), SQUARE=reduce.startswith("square"),
        num_warps=4,
    )  # fmt: skip
    return out
