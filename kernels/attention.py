"""Attention over packed sequences, with optional rotary positions, sliding window and distance bias:

    out_i = sum_j softmax_j(scale * q_i . k_j + bias[i - j]) v_j      over the keys j of i's sequence

- attention: rows and keys are the tokens of one sequence; if a window is given, |i - j| <= window.
  Shapes: qkv [T, 3, H, D] -> [T, H * D]. Rows after the last sequence give zeros.
  `Positions.rotary` is applied to q and k before the product in the half-rotated form of Su et al.
  (arXiv:2104.09864): x * cos + rotate_half(x) * sin. `Positions.distance_bias` is added to the scaled score;
  distances further out use the ends (T5, Raffel et al., arXiv:1910.10683).
- cross_attention: rows and keys are in two buffers, such as labels and their prompts' texts; the scale is
  1 / sqrt(D). Shapes: q [L, H, D], k and v [T, H, D] -> [L, H * D].

Outputs have the inputs' dtype. The kernel is flash attention (Dao et al., arXiv:2205.14135). Heads that are
wider than any in `TILE` run the reference, of which no CUDA graph can be recorded.
"""

from __future__ import annotations

from math import e, log2

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels._sequences import NO_POSITIONS, Positions, Sequences
from gliclass_fast.kernels._tiles import item_at, item_count, normalized, persistent_grid, softmax_step
from gliclass_fast.kernels._triton import power_of_2, tl, triton

# The table maps (bytes per value, width of the widest head) to rows and keys per step, warps and pipeline
# stages: a step's queries, keys and values fit the 99 KB of shared memory of the GPUs that have least.
TILE = {
    (2, 128): (64, 64, 4, 2),
    (2, 256): (32, 32, 4, 1),
    (2, 512): (16, 32, 4, 1),
    (2, 1024): (16, 16, 8, 1),
    (4, 128): (32, 32, 8, 1),
    (4, 256): (16, 32, 8, 1),
    (4, 512): (16, 16, 8, 1),
}


def tile_key(value_bytes: int, width: int) -> tuple[int, int] | None:
    """Returns the place in `TILE` of heads so wide, or None where they are wider than all that it holds."""
    return min((key for key in TILE if key[0] == value_bytes and width <= key[1]), default=None)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates x [L, H, D] to its positions; cos and sin are [L, 1, D / 2]."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attention_reference(
    qkv: Tensor, sequences: Sequences, scale: float, positions: Positions = NO_POSITIONS
) -> Tensor:
    total, _, heads, width = qkv.shape
    out = torch.zeros(total, heads, width, dtype=qkv.dtype, device=qkv.device)
    rotary, window, distance_bias = positions.rotary, positions.window, positions.distance_bias
    for (start, end), _ in sequences.ranges():
        q, k, v = qkv[start:end].unbind(1)
        if rotary is not None:
            cos, sin = (table[: end - start, None, :] for table in rotary)
            q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        length, step = end - start, _rows_per_block(window)
        for first in range(0, length, step):
            last = min(first + step, length)
            low, high = (
                (0, length) if window is None else (max(0, first - window), min(length, last + window))
            )
            beyond = window is not None and high - low > window + 1
            mask = None
            if beyond or distance_bias is not None:
                distance = torch.arange(first, last)[:, None] - torch.arange(low, high)
            if distance_bias is not None:
                reach = distance_bias.shape[1] // 2
                column = (distance.clamp(-reach, reach) + reach).to(qkv.device)
                mask = distance_bias[:, column].to(qkv.dtype)
            if window is not None and beyond:
                near = (distance.abs() <= window).to(qkv.device)
                mask = near if mask is None else mask.masked_fill(~near, float("-inf"))
            queries, keys, values = (
                part.transpose(0, 1)[None] for part in (q[first:last], k[low:high], v[low:high])
            )
            block = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
            out[start + first : start + last] = block[0].transpose(0, 1)
    return out.view(total, heads * width)


def _rows_per_block(window: int | None) -> int:
    """Returns how many query rows share one key range: so many that a window uses most of the range."""
    return 1 << 30 if window is None else max(64, 2 * window)


def cross_attention_reference(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    out = torch.zeros_like(q)
    for (first, last), (start, end) in sequences.ranges():
        queries, keys, values = (
            part.transpose(0, 1)[None] for part in (q[first:last], k[start:end], v[start:end])
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        out[first:last] = attended[0].transpose(0, 1)
    return out.flatten(1)


@triton.jit
def _halves(
    row_pointers, valid, cos, sin, positions, HALF: tl.constexpr, BLOCK: tl.constexpr, ROTARY: tl.constexpr
):
    """Loads rows of q or k as two halves [*, BLOCK], turned to their positions where the model is rotary."""
    column = tl.arange(0, BLOCK)[None, :]
    mask = valid[:, None] & (column < HALF)
    first = tl.load(row_pointers + column, mask=mask, other=0.0)
    second = tl.load(row_pointers + HALF + column, mask=mask, other=0.0)
    if ROTARY:
        angle = positions[:, None] * HALF + column
        c = tl.load(cos + angle, mask=mask, other=0.0).to(tl.float32)
        s = tl.load(sin + angle, mask=mask, other=0.0).to(tl.float32)
        x, y = first.to(tl.float32), second.to(tl.float32)
        first, second = (x * c - y * s).to(first.dtype), (y * c + x * s).to(first.dtype)
    return first, second


@triton.jit
def _attention_kernel(
    q, k, v, out, tiles, cos, sin, bias, scale, q_stride, kv_stride, reach,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK: tl.constexpr, HALF_BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, ROTARY: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = WIDTH // 2
    column = tl.arange(0, BLOCK)[None, :]
    for item in range(tl.program_id(0), item_count(tiles, ROWS, HEADS), tl.num_programs(0)):
        head, first, end, key_start, key_end = item_at(tiles, item, ROWS, HEADS)
        if first < end:
            valid = first + tl.arange(0, ROWS) < end
            # Rows beyond the end stand where the last one does, and are not stored: scores need no mask.
            row = tl.minimum(first + tl.arange(0, ROWS), end - 1)
            q_rows = q + row.to(tl.int64)[:, None] * q_stride + head * WIDTH
            q1, q2 = _halves(q_rows, valid, cos, sin, row - key_start, HALF, HALF_BLOCK, ROTARY)
            highest = tl.full([ROWS], -1e30, tl.float32)
            total = tl.zeros([ROWS], tl.float32)
            acc = tl.zeros([ROWS, BLOCK], tl.float32)
            low, high = key_start, key_end
            if WINDOW >= 0:
                low = tl.maximum(low, first - WINDOW)
                high = tl.minimum(high, first + ROWS + WINDOW)
            for key in range(low, high, KEYS):
                keys = key + tl.arange(0, KEYS)
                known = keys < high
                place = keys.to(tl.int64)[:, None] * kv_stride + head * WIDTH
                k1, k2 = _halves(k + place, known, cos, sin, keys - key_start, HALF, HALF_BLOCK, ROTARY)
                scores = tl.dot(q1, tl.trans(k1), input_precision="ieee")
                scores = tl.dot(q2, tl.trans(k2), scores, input_precision="ieee") * scale
                distance = row[:, None] - keys[None, :]
                allowed = known[None, :]
                if WINDOW >= 0:
                    allowed &= (distance <= WINDOW) & (distance >= -WINDOW)
                if BIAS:
                    slot = tl.minimum(tl.maximum(distance, -reach), reach) + reach
                    scores += tl.load(bias + head * (2 * reach + 1) + slot) * 1.4426950408889634  # log2(e)
                values = tl.load(v + place + column, mask=known[:, None] & (column < WIDTH), other=0.0)
                highest, total, acc = softmax_step(scores, allowed, values, highest, total, acc)
            target = out + row.to(tl.int64)[:, None] * (HEADS * WIDTH) + head * WIDTH + column
            result = normalized(acc, total).to(out.dtype.element_ty)
            tl.store(target, result, mask=valid[:, None] & (column < WIDTH))


def _launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sequences: Sequences,
    scale: float,
    tile: tuple[int, int],
    positions: Positions = NO_POSITIONS,
) -> Tensor:
    """Takes q [R, H, D], k and v [T, H, D], where only the first dimension may be strided -> [R, H * D]."""
    count, heads, width = q.shape
    rows, keys, warps, stages = TILE[tile]
    out = torch.empty(count, heads * width, dtype=q.dtype, device=q.device)
    rotary, window, distance_bias = positions.rotary, positions.window, positions.distance_bias
    cos, sin = rotary or (q, q)
    _attention_kernel[persistent_grid(count, heads, q.device)](
        q, k, v, out, sequences.tiles, cos, sin, q if distance_bias is None else distance_bias,
        scale * log2(e), q.stride(0), k.stride(0),
        0 if distance_bias is None else distance_bias.shape[1] // 2,
        HEADS=heads, WIDTH=width, ROWS=rows, KEYS=keys,
        BLOCK=power_of_2(width), HALF_BLOCK=power_of_2(width // 2),
        WINDOW=-1 if window is None else window, ROTARY=rotary is not None, BIAS=distance_bias is not None,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def attention_triton(
    qkv: Tensor, sequences: Sequences, scale: float, positions: Positions = NO_POSITIONS
) -> Tensor:
    tile = tile_key(qkv.element_size(), qkv.shape[-1])
    if tile is None:
        return attention_reference(qkv, sequences, scale, positions)
    q, k, v = qkv.unbind(1)
    return _launch(q, k, v, sequences, scale, tile, positions)


def cross_attention_triton(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    tile = tile_key(q.element_size(), q.shape[-1])
    if tile is None:
        return cross_attention_reference(q, k, v, sequences)
    return _launch(q, k, v, sequences, q.shape[-1] ** -0.5, tile)
