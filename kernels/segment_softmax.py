"""Softmax over the labels of each prompt.

Shapes: scores [L], owner int32 [L] (the prompt of every label), segments: number of prompts -> [L], in
scores' dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor


def segment_softmax_reference(scores: Tensor, owner: Tensor, segments: int) -> Tensor:
    index = owner.long()
    full = scores.float()
    highest = torch.full((segments,), float("-inf"), device=scores.device).scatter_reduce_(
        0, index, full, "amax"
    )
    exponentials = (full - highest[index]).exp()
    total = torch.zeros(segments, device=scores.device).index_add_(0, index, exponentials)
    return (exponentials / total[index]).to(scores.dtype)
