"""Attention pooling: a label gets the mean of its text's rows, weighted by how much they resemble the label.

    out_l = sum_t softmax_t(scale * q_l . x_t) x_t        over the rows t of l's text

There is one head, as wide as the model, without projections: rows are keys and values at once (GliZNet).
Shapes: queries [L, C], rows [T, C], sequences of labels over the rows of their text -> [L, C] in the inputs'
dtype. Labels of a text without rows give zeros.

Rows are too wide for a flash-attention tile, so every program makes all scores of its labels, column block by
column block, and sums one block of columns.
"""

from __future__ import annotations

from math import e, log2

import torch
from torch import Tensor

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._sequences import Sequences
from gliclass_fast.kernels._tiles import item_at, item_count, normalized, persistent_grid, softmax_step
from gliclass_fast.kernels._triton import tl, triton

# A program takes ROWS labels (tl.dot takes no fewer than 16) and COLUMNS of their sums.
ROWS, COLUMNS, WARPS = 16, 128, 4
KEYS = {2: 64, 4: 32}  # The bytes per value decide the keys per step.


def attention_pool_reference(queries: Tensor, rows: Tensor, sequences: Sequences, scale: float) -> Tensor:
    out = torch.zeros_like(queries)
    for (first, last), (start, end) in sequences.ranges():
        own = rows[start:end].float()
        shares = (scale * queries[first:last].float() @ own.T).softmax(dim=1)
        out[first:last] = (shares @ own).to(out.dtype)
    return out


@triton.jit
def _values(source, rows, known, columns, WIDTH: tl.constexpr):
    """Loads a block of a matrix of WIDTH columns, with zeros beyond it."""
    place = rows.to(tl.int64)[:, None] * WIDTH + columns[None, :]
    return tl.load(source + place, mask=known[:, None] & (columns < WIDTH)[None, :], other=0.0)


@triton.jit
def _attention_pool_kernel(
    queries, rows, out, tiles, scale, WIDTH: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    for item in range(tl.program_id(0), item_count(tiles, ROWS, PARTS), tl.num_programs(0)):
        part, first, end, key_start, key_end = item_at(tiles, item, ROWS, PARTS)
        if first < end:
            label = first + tl.arange(0, ROWS)
            own = part * COLUMNS + tl.arange(0, COLUMNS)
            highest = tl.full([ROWS], -1e30, tl.float32)
            total = tl.zeros([ROWS], tl.float32)
            acc = tl.zeros([ROWS, COLUMNS], tl.float32)
            for key in range(key_start, key_end, KEYS):
                keys = key + tl.arange(0, KEYS)
                known = keys < key_end
                scores = tl.zeros([ROWS, KEYS], tl.float32)
                for column in range(0, WIDTH, COLUMNS):
                    columns = column + tl.arange(0, COLUMNS)
                    q = _values(queries, label, label < end, columns, WIDTH)
                    x = _values(rows, keys, known, columns, WIDTH)
                    scores = tl.dot(q, tl.trans(x), scores, input_precision="ieee")
                allowed = known[None, :] & (label < end)[:, None]
                values = _values(rows, keys, known, own, WIDTH)
                highest, total, acc = softmax_step(scores * scale, allowed, values, highest, total, acc)
            place = label.to(tl.int64)[:, None] * WIDTH + own[None, :]
            mask = (label < end)[:, None] & (own < WIDTH)[None, :]
            tl.store(out + place, normalized(acc, total).to(out.dtype.element_ty), mask=mask)


def attention_pool_triton(queries: Tensor, rows: Tensor, sequences: Sequences, scale: float) -> Tensor:
    count, width = queries.shape
    parts = ceil_div(width, COLUMNS)
    out = torch.empty_like(queries)
    _attention_pool_kernel[persistent_grid(count, parts, queries.device)](
        queries.contiguous(), rows.contiguous(), out, sequences.tiles, scale * log2(e),
        WIDTH=width, PARTS=parts, ROWS=ROWS, KEYS=KEYS[queries.element_size()], COLUMNS=COLUMNS,
        num_warps=WARPS, num_stages=2,
    )  # fmt: skip
    return out
