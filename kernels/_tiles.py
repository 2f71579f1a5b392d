"""What the Triton kernels of attention share: their walk over the work list of tiles, and the online softmax.

A work list is int32 [1 + W, 4]: (number of tiles, rows per tile, 0, 0), then (first row, end of rows, first
key, end of keys) per tile. The kernels read its length on the device and the grid is fixed, so that a
captured launch serves any batch. An item is a part of ROWS rows of a tile in one head; a program takes every
item it meets. Heads vary fastest, so that neighbours share a tile's keys in the cache.
"""

from __future__ import annotations

import torch

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._triton import processors, tl, triton

# A multiprocessor holds 2, 3 or 4 programs at once, by the registers they take in a version of Triton. 12 is
# a multiple of each; a count that is not ends with a turn in which most multiprocessors have no work.
PROGRAMS_PER_PROCESSOR = 12


def persistent_grid(rows: int, heads: int, device: torch.device) -> tuple[int]:
    """Returns the number of programs: so many per multiprocessor, but no more than items of 16 rows."""
    return (min(PROGRAMS_PER_PROCESSOR * processors(device), heads * ceil_div(rows, 16)),)


@triton.jit
def item_count(tiles, ROWS, HEADS):
    return tl.load(tiles) * tl.cdiv(tl.load(tiles + 1), ROWS) * HEADS


@triton.jit
def item_at(tiles, item, ROWS, HEADS):
    """Returns (head, first row, end of rows, first key, end of keys); a part beyond the rows is empty."""
    parts = tl.cdiv(tl.load(tiles + 1), ROWS)
    head = item % HEADS
    part = item // HEADS
    tile = tiles + (1 + part // parts) * 4
    first = tl.load(tile) + part % parts * ROWS
    return head, first, tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)


@triton.jit
def softmax_step(scores, known, values, highest, total, acc):
    """Adds one block of keys, whose scores [ROWS, KEYS] are in log2 units, to (highest, total, acc).

    Where a row has met no key yet, its weights mean nothing; the first key's `shrink` of 0 wipes them out.
    """
    scores = tl.where(known, scores, -1e30)
    new = tl.maximum(highest, tl.max(scores, 1))
    weights = tl.math.exp2(scores - new[:, None])
    shrink = tl.math.exp2(highest - new)
    total = total * shrink + tl.sum(weights, 1)
    acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
    return new, total, acc


@triton.jit
def normalized(acc, total):
    """Returns acc / total, and zeros where there was no key."""
    return acc / tl.where(total > 0, total, 1.0)[:, None]
