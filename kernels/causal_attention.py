"""Causal attention over packed sequences, whose keys and values may lie in pages:

    out_i = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j      over the keys j that row i sees

The last row of a sequence sees all of its keys, and each row before it one fewer. A sequence has at least as
many keys as rows: what comes before them was kept from earlier calls, in a decoder's cache.

- causal_attention: q [R, H, D], k and v [K, G, D] -> [R, H * D], where heads h * H / G up to
  (h + 1) * H / G - 1 of queries read head h of keys (Ainslie et al., arXiv:2305.13245). Rows after the last
  sequence give zeros. Without `pages`, keys are rows of k and v. `pages` is int32 [P], the page tables of all
  sequences one after the other: key j is in row pages[j // PAGE_ROWS] * PAGE_ROWS + j % PAGE_ROWS (Kwon et
  al., arXiv:2309.06180), and a sequence's range of keys is one of places in these tables.

In the work list, the keys of a tile end at the last that its last row sees. The outputs have the inputs'
dtype. The kernel is flash attention (Dao et al., arXiv:2205.14135), and attention.py says which heads are too
wide for it.
"""

from __future__ import annotations

from math import e, log2

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels._sequences import PAGE_ROWS, Sequences
from gliclass_fast.kernels._tiles import item_at, item_count, normalized, persistent_grid, softmax_step
from gliclass_fast.kernels._triton import power_of_2, tl, triton
from gliclass_fast.kernels.attention import TILE, tile_key


def causal_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, pages: Tensor | None = None
) -> Tensor:
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    for (first, last), (start, end) in sequences.ranges():
        places = torch.arange(start, end, device=q.device)
        if pages is not None:
            places = pages[places // PAGE_ROWS] * PAGE_ROWS + places % PAGE_ROWS
        rows, keys = last - first, end - start
        seen = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
        queries, found, values = (
            part.transpose(0, 1)[None] for part in (q[first:last], k[places], v[places])
        )
        attended = F.scaled_dot_product_attention(queries, found, values, attn_mask=seen, enable_gqa=True)
        out[first:last] = attended[0].transpose(0, 1)
    return out.flatten(1)


@triton.jit
def _causal_attention_kernel(
    q, k, v, out, tiles, pages, scale, q_stride, kv_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < WIDTH
    for item in range(tl.program_id(0), item_count(tiles, ROWS, HEADS), tl.num_programs(0)):
        head, first, end, key_start, key_end = item_at(tiles, item, ROWS, HEADS)
        if first < end:
            row = first + tl.arange(0, ROWS)
            valid = row < end
            q_rows = q + row.to(tl.int64)[:, None] * q_stride + head * WIDTH + column
            queries = tl.load(q_rows, mask=valid[:, None] & inside, other=0.0)
            newest = key_end - end + row  # the last key that each row sees
            highest = tl.full([ROWS], -1e30, tl.float32)
            total = tl.zeros([ROWS], tl.float32)
            acc = tl.zeros([ROWS, BLOCK], tl.float32)
            high = tl.minimum(key_end, key_end - end + first + ROWS)
            for key in range(key_start, high, KEYS):
                keys = key + tl.arange(0, KEYS)
                known = keys < high
                places = keys
                if PAGE > 0:
                    places = tl.load(pages + keys // PAGE, mask=known, other=0) * PAGE + keys % PAGE
                place = places.to(tl.int64)[:, None] * kv_stride + (head // GROUP) * WIDTH + column
                mask = known[:, None] & inside
                scores = tl.dot(
                    queries, tl.trans(tl.load(k + place, mask=mask, other=0.0)), input_precision="ieee"
                )
                allowed = known[None, :] & valid[:, None] & (keys[None, :] <= newest[:, None])
                values = tl.load(v + place, mask=mask, other=0.0)
                highest, total, acc = softmax_step(scores * scale, allowed, values, highest, total, acc)
            target = out + row.to(tl.int64)[:, None] * (HEADS * WIDTH) + head * WIDTH + column
            tl.store(target, normalized(acc, total).to(out.dtype.element_ty), mask=valid[:, None] & inside)


def causal_attention_triton(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, pages: Tensor | None = None
) -> Tensor:
    """Takes rows of q, k and v of which only the first dimension may be strided, k and v alike."""
    count, heads, width = q.shape
    tile = tile_key(q.element_size(), width)
    if tile is None:
        return causal_attention_reference(q, k, v, sequences, pages)
    rows, keys, warps, stages = TILE[tile]
    out = torch.empty(count, heads * width, dtype=q.dtype, device=q.device)
    _causal_attention_kernel[persistent_grid(count, heads, q.device)](
        q, k, v, out, sequences.tiles, sequences.tiles if pages is None else pages,
        width**-0.5 * log2(e), q.stride(0), k.stride(0),
        HEADS=heads, GROUP=heads // k.shape[1], WIDTH=width, ROWS=rows, KEYS=keys,
        BLOCK=power_of_2(width), PAGE=0 if pages is None else PAGE_ROWS,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out
