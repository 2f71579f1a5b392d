"""Attention of every label over the text rows of its own prompt.

    out_l = concat_h sum_t softmax_t(q_lh . k_th / sqrt(D)) v_th      t in the text span of l's prompt

Shapes: q [L, H, D], k and v [T, H, D], cu_labels int32 [N + 1], text_spans int32 [N, 2] -> [L, H * D], in q's
dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_attention_reference(
    q: Tensor, k: Tensor, v: Tensor, cu_labels: Tensor, text_spans: Tensor
) -> Tensor:
    out = torch.empty_like(q)
    labels = cu_labels.tolist()
    for first, last, (start, end) in zip(labels[:-1], labels[1:], text_spans.tolist(), strict=True):
        queries, keys, values = (
            part.transpose(0, 1)[None] for part in (q[first:last], k[start:end], v[start:end])
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        out[first:last] = attended[0].transpose(0, 1)
    return out.flatten(1)
