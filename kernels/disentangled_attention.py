"""DeBERTa's disentangled self-attention over packed sequences (He et al., arXiv:2006.03654, equation 4).

    score(i, j) = scale * (q_i . k_j + q_i . key_table[slot(i - j)] + k_j . query_table[slot(i - j)])
    out_i       = sum_j softmax_j(score(i, j)) v_j            over tokens j of i's own sequence

Shapes: qkv [T, 3, H, D], cu_seqlens int32 [N + 1] -> [T, H * D], in qkv's dtype.
key_table and query_table [H, D, slots]: projected relative-position embeddings, a weight-only product made at
load; None where the model lacks the content-to-position or the position-to-content term.
slots: int64 [2 * reach + 1], the table column of every distance -reach .. reach; it never decreases.
Distances further out use the first and the last column.

The reference never gathers: one GEMM against the table columns of all distances -(L-1) .. L-1 gives a band
whose element (i, distance) is read back as (i, j) through strides alone. The scale goes into the factors,
not the sum, so that products which fit float16 stay finite.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def distance_columns(table: Tensor, slots: Tensor, length: int) -> Tensor:
    """The table expanded to one column per distance -(length-1) .. length-1: [H, D, 2 * length - 1].

    A view where the slots of those distances are consecutive, as they are for short sequences.
    """
    reach = slots.numel() // 2
    distances = torch.arange(1 - length, length, device=slots.device).clamp_(-reach, reach)
    wanted = slots[distances + reach]
    first, last = int(wanted[0]), int(wanted[-1])
    if last - first == 2 * length - 2 and bool((wanted.diff() == 1).all()):
        return table[:, :, first : last + 1]
    return table.index_select(2, wanted)


def _band_of_queries(q: Tensor, columns: Tensor) -> Tensor:
    """[H, L, D] x [H, D, 2L-1] -> [H, L, L]: (i, j) = q_i . columns[j - i], each row one to the left."""
    heads, length, _ = q.shape
    width = 2 * length - 1
    band = torch.bmm(q, columns)
    return band.as_strided((heads, length, length), (length * width, width - 1, 1), length - 1)


def _band_of_keys(k: Tensor, columns: Tensor) -> Tensor:
    """[H, L, D] x [H, D, 2L-1] -> [H, L, L]: (i, j) = k_j . columns[i - j], the band read by columns."""
    heads, length, _ = k.shape
    width = 2 * length - 1
    band = torch.bmm(k, columns)
    return band.as_strided((heads, length, length), (length * width, 1, width - 1), length - 1)


def disentangled_attention_reference(
    qkv: Tensor,
    key_table: Tensor | None,
    query_table: Tensor | None,
    slots: Tensor,
    cu_seqlens: Tensor,
    scale: float,
) -> Tensor:
    total, _, heads, width = qkv.shape
    out = torch.empty(total, heads, width, dtype=qkv.dtype, device=qkv.device)
    bounds = cu_seqlens.tolist()
    longest = max(end - start for start, end in pairwise(bounds))
    key_columns = query_columns = None
    if key_table is not None:
        key_columns = distance_columns(key_table, slots, longest).flip(2)  # now by j - i
    if query_table is not None:
        query_columns = distance_columns(query_table, slots, longest) * scale
    for start, end in pairwise(bounds):
        length = end - start
        near = slice(longest - length, longest + length - 1)
        q, k, v = (part.transpose(0, 1).contiguous() for part in qkv[start:end].unbind(1))
        q = q * scale
        scores = torch.bmm(q, k.transpose(1, 2))
        if key_columns is not None:
            scores += _band_of_queries(q, key_columns[:, :, near])
        if query_columns is not None:
            scores += _band_of_keys(k, query_columns[:, :, near])
        weights = torch.softmax(scores.float(), dim=-1).to(v.dtype)
        out[start:end] = torch.bmm(weights, v).transpose(0, 1)
    return out.view(total, heads * width)
