"""Cases of what a language model's layers are made of: causal attention and norms of heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.ops import PAGE_ROWS
from tests.kernels.layouts import LENGTHS, SPARE, WIDTH, cumulative, sequences, slow_norm, with_spare

Slow = Callable[[torch.dtype], Any]


def causal_attention(
    dtype: torch.dtype,
    group: int = 1,
    width: int = WIDTH,
    kept: Sequence[int] | None = None,
    lengths: Sequence[int] = LENGTHS,
) -> tuple[Any, Slow]:
    """Sequences of so many rows, behind so many kept keys each, which lie in pages; None: the rows alone."""
    cu, counts = (
        cumulative(lengths),
        lengths if kept is None else list(map(sum, zip(lengths, kept, strict=True))),
    )
    q = torch.randn(sum(lengths), 2 * group, width).to(dtype)
    k, v = (torch.randn(sum(counts), 2, width).to(dtype) for _ in range(2))
    ends = cumulative(counts)

    def slow(precision: torch.dtype) -> Tensor:
        out = []
        for n in range(len(lengths)):
            rows = q[cu[n] : cu[n + 1]].to(precision)
            keys, values = (
                x[ends[n] : ends[n + 1]].to(precision).repeat_interleave(group, 1) for x in (k, v)
            )
            scores = torch.einsum("ihd,jhd->hij", rows, keys) * width**-0.5
            ahead = torch.ones_like(scores[0]).triu(scores.shape[2] - scores.shape[1] + 1).bool()
            weights = scores.masked_fill(ahead, -math.inf).softmax(-1)
            out.append(torch.einsum("hij,jhd->ihd", weights, values).flatten(1))
        return torch.cat([*out, out[0].new_zeros(SPARE if kept is None else 0, out[0].shape[1])])

    if kept is None:
        return (with_spare(q), with_spare(k), with_spare(v), sequences(cu, spare=SPARE).causal()), slow
    return (q, *in_pages(cu, (k, v), counts)), slow


def in_pages(cu: Tensor, rows: Sequence[Tensor], counts: Sequence[int]) -> tuple[Any, ...]:
    """Spreads keys and values over pages in random order; a range of keys need not start a page."""
    pools, pages, spans, taken = [], [], [], 0
    needed = [-(-(count + 3) // PAGE_ROWS) for count in counts]
    order = torch.randperm(sum(needed)).int()
    for pool in rows:
        pools.append(pool.new_full((sum(needed) * PAGE_ROWS, *pool.shape[1:]), float("nan")))
    start = 0
    for count, own in zip(counts, needed, strict=True):
        table = order[taken : taken + own]
        places = torch.arange(3, 3 + count)
        slots = table[places // PAGE_ROWS].long() * PAGE_ROWS + places % PAGE_ROWS
        for pool, given in zip(pools, rows, strict=True):
            pool[slots] = given[start : start + count]
        spans.append([taken * PAGE_ROWS + 3, taken * PAGE_ROWS + 3 + count])
        pages.append(table)
        start, taken = start + count, taken + own
    keys = torch.tensor(spans).int()
    found = sequences(cu, keys)
    owner = torch.searchsorted(cu, found.tiles[1:, 0].contiguous(), right=True) - 1
    found.tiles[1:, 3] -= cu[owner + 1] - found.tiles[1:, 1]
    return (*pools, found, torch.cat(pages))


def head_norm(dtype: torch.dtype, width: int = WIDTH, rows: int = 17) -> tuple[Any, Slow]:
    x, weight = torch.randn(rows, 5, width).to(dtype)[:, :3], torch.randn(3, width).to(dtype)
    angles = torch.randn(rows, width // 2)
    cos, sin = angles.cos(), angles.sin()

    def slow(precision: torch.dtype) -> Tensor:
        y = slow_norm(x.to(precision), weight, None, rms=True)
        (a, b), c, s = y.chunk(2, dim=-1), cos[:, None].to(precision), sin[:, None].to(precision)
        return torch.cat((a * c - b * s, b * c + a * s), dim=-1)

    return (x, weight, 1e-7, cos, sin), slow
