"""Sum or maximum of the rows of every span of a packed buffer.

Shapes: rows [T, C], spans int32 [M, 2] (start, end; ascending, not overlapping) -> [M, C], in rows' dtype.
An empty span gives zeros for "sum" and -inf for "max". No value is read back to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_pool_reference(rows: Tensor, spans: Tensor, reduce: str) -> Tensor:
    count = spans.shape[0]
    places = torch.arange(rows.shape[0], dtype=spans.dtype, device=rows.device)
    starts, ends = spans[:, 0].contiguous(), spans[:, 1]
    owner = torch.searchsorted(starts, places, right=True) - 1
    outside = (owner < 0) | (places >= ends[owner.clamp(min=0)])
    owner = owner.masked_fill(outside, count)  # rows of no span go to a spare slot
    fill, mode = (0.0, "sum") if reduce == "sum" else (float("-inf"), "amax")
    pooled = torch.full((count + 1, rows.shape[1]), fill, dtype=torch.float32, device=rows.device)
    if mode == "sum":
        pooled.index_add_(0, owner, rows.float())
    else:
        pooled.scatter_reduce_(0, owner[:, None].expand_as(rows), rows.float(), mode)
    return pooled[:count].to(rows.dtype)
