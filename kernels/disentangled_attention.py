"""DeBERTa's disentangled self-attention over packed sequences (He et al., arXiv:2006.03654, equation 4):

    score(i, j) = scale * (q_i . k_j + q_i . key_table[bucket(i - j)] + k_j . query_table[bucket(i - j)])
    out_i       = sum_j softmax_j(score(i, j)) v_j            over tokens j of i's own sequence

Shapes: qkv [T, 3, H, D], tables as `pack_distances_*` returned them -> [T, H * D], in qkv's dtype. Rows after
the last sequence give zeros.

Nothing is gathered by (i, j). One GEMM against the table columns of consecutive distances gives a band, whose
element (i, distance) is read back as (i, j) by its address alone: a row further down starts one column
further left. The reference makes one band per block of rows and reads it through strides. The Triton kernel
makes one band per tile, in a scratch buffer of its program that stays in the L2 cache, from tables that are
expanded to one row per distance. The compiled kernels (csrc) make one per step in shared memory on a GPU, and
on a CPU one for a few rows at a time, which has one column for all distances of a bucket. The scale
multiplies the factors and not the sum, so that products which fit float16 stay finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import e, log2

import torch
from torch import Tensor

from gliclass_fast.kernels._sequences import DistanceTables, Sequences
from gliclass_fast.kernels._tiles import item_at, item_count, normalized, persistent_grid, softmax_step
from gliclass_fast.kernels._triton import capability, power_of_2, tl, triton

BAND_ROWS = 128  # rows of the bands that the reference makes: with more, few columns would be used
# The table maps (bytes per value, one of LARGE_TILES) to (rows per step, which are as many as keys; warps).
# None of these kernels spills registers where heads are 64 wide, as DeBERTa's are. Wider ones may: in 16 bit
# with Triton 3.6, heads of 80 to 128 spill 176 bytes on Hopper.
TILE = {(2, False): (32, 4), (2, True): (64, 8), (4, False): (16, 4), (4, True): (16, 4)}
# Hopper and the Blackwell of data centres. On that of other cards, 12.0, the large tile spills 424 bytes.
LARGE_TILES = (9, 10)


def pack_distances_reference(
    tables: DistanceTables, empty: Callable[..., Tensor] = torch.empty
) -> DistanceTables:
    return tables


def pack_distances_by_row(
    tables: DistanceTables, empty: Callable[..., Tensor] = torch.empty
) -> DistanceTables:
    """Packs [H, D, buckets] into [H, 2 * reach + 1, D], one contiguous row per distance -reach .. reach."""

    def rows(table: Tensor | None) -> Tensor | None:
        return None if table is None else table.index_select(2, tables.bucket_of).transpose(1, 2).contiguous()

    return replace(tables, key_table=rows(tables.key_table), query_table=rows(tables.query_table))


def distance_columns(table: Tensor, bucket_of: Tensor, length: int) -> Tensor:
    """Expands the table to one column per distance -(length-1) .. length-1: [H, D, 2 * length - 1].

    It is a view where the buckets of those distances are consecutive, as they are for short sequences.
    """
    reach = bucket_of.numel() // 2
    distances = torch.arange(1 - length, length, device=bucket_of.device).clamp_(-reach, reach)
    wanted = bucket_of[distances + reach]
    first, last = int(wanted[0]), int(wanted[-1])
    if last - first == 2 * length - 2 and bool((wanted.diff() == 1).all()):
        return table[:, :, first : last + 1]
    return table.index_select(2, wanted)


def _band(x: Tensor, columns: Tensor, first: int) -> Tensor:
    """Multiplies [H, B, D] x [H, D, 2L-1] -> [H, B, L]: (i, j) = x_i . columns[L - 1 + j - (first + i)].

    One GEMM takes the columns that occur, and strides read it back with each row one further to the left.
    """
    heads, rows, _ = x.shape
    length = (columns.shape[2] + 1) // 2
    width = length + rows - 1
    near = length - first - rows
    band = torch.bmm(x, columns[:, :, near : near + width])
    return band.as_strided((heads, rows, length), (rows * width, width - 1, 1), rows - 1)


def disentangled_attention_reference(
    qkv: Tensor, sequences: Sequences, scale: float, tables: DistanceTables
) -> Tensor:
    total, _, heads, width = qkv.shape
    out = torch.zeros(total, heads, width, dtype=qkv.dtype, device=qkv.device)
    bounds = [rows for rows, _ in sequences.ranges()]
    longest = max(1, *(end - start for start, end in bounds))
    key_columns = query_columns = None
    if tables.key_table is not None:
        # The flip orders the columns by j - i.
        key_columns = distance_columns(tables.key_table, tables.bucket_of, longest).flip(2)
    if tables.query_table is not None:
        query_columns = distance_columns(tables.query_table, tables.bucket_of, longest)
    for start, end in bounds:
        if start == end:
            continue
        length = end - start
        near = slice(longest - length, longest + length - 1)
        q, k, v = (part.transpose(0, 1).contiguous() for part in qkv[start:end].unbind(1))
        q = q * scale
        scores = torch.bmm(q, k.transpose(1, 2))
        k = k * scale
        for first in range(0, length, BAND_ROWS):
            rows = slice(first, first + BAND_ROWS)
            if key_columns is not None:
                scores[:, rows] += _band(q[:, rows], key_columns[:, :, near], first)
            if query_columns is not None:
                by_key = _band(k[:, rows], query_columns[:, :, near], first)
                scores[:, :, rows] += by_key.transpose(1, 2)
        weights = torch.softmax(scores.float(), dim=-1).to(v.dtype)
        out[start:end] = torch.bmm(weights, v).transpose(0, 1)
    return out.view(total, heads * width)


@triton.jit(do_not_specialize=["held"])
def _disentangled_kernel(
    q, k, v, out, key_table, query_table, scratch, tiles, slots, held, scale, stride, reach,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SIDE: tl.constexpr,
    C2P: tl.constexpr, P2C: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    # Band column b stands for j - i = (first key - first row) + b - (SIDE - 1); the last one is never read.
    band = tl.arange(0, 2 * SIDE)
    side = tl.arange(0, SIDE)
    along_row = side[None, :] - side[:, None] + (SIDE - 1)  # (i, j) -> b
    along_key = side[:, None] - side[None, :] + (SIDE - 1)  # (j, i) -> b
    dtype = q.dtype.element_ty
    of_queries = scratch + tl.program_id(0).to(tl.int64) * (4 * SIDE * SIDE)
    of_keys = of_queries + 2 * SIDE * SIDE
    for item in range(tl.program_id(0), item_count(tiles, SIDE, HEADS), tl.num_programs(0)):
        head, first, end, key_start, key_end = item_at(tiles, item, SIDE, HEADS)
        if first < end:
            row = first + side
            valid = row < end
            tables = head  # This is the number of the head among those of all tables.
            if SLOTS:
                slot_of_row = tl.load(slots + first)
                tables += tl.where(slot_of_row < held, 1 + slot_of_row, 0) * HEADS
            used = valid[:, None] & (column < WIDTH)
            row_place = row.to(tl.int64)[:, None] * stride + head * WIDTH + column
            queries = tl.load(q + row_place, mask=used, other=0.0)
            highest = tl.full([SIDE], -1e30, tl.float32)
            total = tl.zeros([SIDE], tl.float32)
            acc = tl.zeros([SIDE, BLOCK], tl.float32)
            for key in range(key_start, key_end, SIDE):
                keys = key + side
                known = keys < key_end
                loaded = known[:, None] & (column < WIDTH)
                place = keys.to(tl.int64)[:, None] * stride + head * WIDTH + column
                key_rows = tl.load(k + place, mask=loaded, other=0.0)
                distance = first - key + (SIDE - 1) - band  # i - j
                slot = tl.minimum(tl.maximum(distance, -reach), reach) + reach
                table_place = (tables * (2 * reach + 1) + slot)[:, None] * WIDTH + column
                tl.debug_barrier()  # All threads have read the previous bands.
                if C2P:
                    table = tl.load(key_table + table_place, mask=column < WIDTH, other=0.0)
                    scores = tl.dot(queries, tl.trans(table), input_precision="ieee") * scale
                    tl.store(of_queries + side[:, None] * (2 * SIDE) + band[None, :], scores.to(dtype))
                if P2C:
                    table = tl.load(query_table + table_place, mask=column < WIDTH, other=0.0)
                    scores = tl.dot(key_rows, tl.trans(table), input_precision="ieee") * scale
                    tl.store(of_keys + side[:, None] * (2 * SIDE) + band[None, :], scores.to(dtype))
                tl.debug_barrier()  # All threads have written the bands.
                scores = tl.dot(queries, tl.trans(key_rows), input_precision="ieee") * scale
                if C2P:
                    scores += tl.load(of_queries + side[:, None] * (2 * SIDE) + along_row).to(tl.float32)
                if P2C:
                    by_key = tl.load(of_keys + side[:, None] * (2 * SIDE) + along_key)
                    scores += tl.trans(by_key).to(tl.float32)
                values = tl.load(v + place, mask=loaded, other=0.0)
                allowed = known[None, :] & valid[:, None]
                highest, total, acc = softmax_step(scores, allowed, values, highest, total, acc)
            target = out + row.to(tl.int64)[:, None] * (HEADS * WIDTH) + head * WIDTH + column
            tl.store(target, normalized(acc, total).to(dtype), mask=used)


def disentangled_attention_triton(
    qkv: Tensor, sequences: Sequences, scale: float, tables: DistanceTables, slots: Tensor | None = None
) -> Tensor:
    """Computes `disentangled_attention`.

    slots: int32 [T]; tables are then stacked, [1 + S, ...], and the rows of slot s read those at 1 + s. An
    adapter in a slot from S on changes none: its rows read the first.
    """
    count, _, heads, width = qkv.shape
    side, warps = TILE[qkv.element_size(), capability(qkv.device)[0] in LARGE_TILES]
    grid = persistent_grid(count, heads, qkv.device)
    out = torch.empty(count, heads * width, dtype=qkv.dtype, device=qkv.device)
    scratch = torch.empty(grid[0] * 4 * side * side, dtype=qkv.dtype, device=qkv.device)
    stacked = tables.query_table if tables.key_table is None else tables.key_table
    held = 0 if slots is None or stacked is None else len(stacked) - 1
    _disentangled_kernel[grid](
        *qkv.unbind(1), out,
        qkv if tables.key_table is None else tables.key_table,
        qkv if tables.query_table is None else tables.query_table,
        scratch, sequences.tiles, sequences.tiles if slots is None else slots, held,
        scale * log2(e), qkv.stride(0), tables.reach,
        HEADS=heads, WIDTH=width, BLOCK=power_of_2(width), SIDE=side,
        C2P=tables.key_table is not None, P2C=tables.query_table is not None,
        SLOTS=slots is not None,
        num_warps=warps, num_stages=1,  # A pipelined load could overtake the store of its band.
    )  # fmt: skip
    return out
