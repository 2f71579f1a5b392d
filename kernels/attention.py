"""Self-attention over packed sequences, with optional rotary positions and sliding window.

    out_i = sum_j softmax_j(scale * q_i . k_j) v_j      over tokens j of i's own sequence, |i - j| <= window
    if given

Shapes: qkv [T, 3, H, D], cu_seqlens int32 [N + 1] -> [T, H * D], in qkv's dtype.
rotary: (cos, sin), each float32 [T, D], applied to q and k before the product in the half-rotated form of Su
et al. (arXiv:2104.09864): x * cos + rotate_half(x) * sin.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    full = x.float()
    first, second = full.chunk(2, dim=-1)
    return (full * cos).addcmul_(torch.cat((-second, first), dim=-1), sin).to(x.dtype)


def attention_reference(
    qkv: Tensor,
    cu_seqlens: Tensor,
    scale: float,
    rotary: tuple[Tensor, Tensor] | None = None,
    window: int | None = None,
) -> Tensor:
    total, _, heads, width = qkv.shape
    q, k, v = qkv.unbind(1)
    if rotary is not None:
        cos, sin = (table[:, None, :] for table in rotary)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    out = torch.empty(total, heads, width, dtype=qkv.dtype, device=qkv.device)
    bounds = cu_seqlens.tolist()
    for start, end in pairwise(bounds):
        for first in range(start, end, _rows_per_block(window)):
            last = min(first + _rows_per_block(window), end)
            low, high = (
                (start, end) if window is None else (max(start, first - window), min(end, last + window))
            )
            mask = None
            if window is not None and high - low > window + 1:
                rows, columns = torch.arange(first, last), torch.arange(low, high)
                mask = ((rows[:, None] - columns).abs() <= window).to(qkv.device)
            queries, keys, values = (
                part.transpose(0, 1)[None] for part in (q[first:last], k[low:high], v[low:high])
            )
            block = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
            out[first:last] = block[0].transpose(0, 1)
    return out.view(total, heads * width)


def _rows_per_block(window: int | None) -> int:
    """Query rows that share one key range; with a window, wide enough that most of the range is in use."""
    return 1 << 30 if window is None else max(64, 2 * window)
