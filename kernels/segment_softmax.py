"""Softmax over the labels of each prompt: the results of one prompt sum to 1.

Shapes: scores [L], sequences of labels -> [L], in scores' dtype. The kernel reads only the bounds of the
sequences. It reads no scores after the last prompt, and what it returns for them means nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.kernels._sequences import Sequences
from gliclass_fast.kernels._triton import tl, triton

BLOCK = 128


def segment_softmax_reference(scores: Tensor, sequences: Sequences) -> Tensor:
    out = torch.zeros_like(scores)
    for (start, end), _ in sequences.ranges():
        out[start:end] = torch.softmax(scores[start:end].float(), dim=0)
    return out


@triton.jit
def _softmax_kernel(scores, cu_labels, out, BLOCK: tl.constexpr):
    start, end = tl.load(cu_labels + tl.program_id(0)), tl.load(cu_labels + tl.program_id(0) + 1)
    highest = tl.full([BLOCK], -1e30, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        x = tl.load(scores + place, mask=place < end, other=float("-inf")).to(tl.float32)
        new = tl.maximum(highest, x)
        total = total * tl.exp(highest - new) + tl.where(place < end, tl.exp(x - new), 0.0)
        highest = new
    overall = tl.max(highest, 0)
    denominator = tl.sum(total * tl.exp(highest - overall), 0)
    for first in range(start, end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        x = tl.load(scores + place, mask=place < end, other=0.0).to(tl.float32)
        share = tl.exp(x - overall) / denominator
        tl.store(out + place, share.to(out.dtype.element_ty), mask=place < end)


def segment_softmax_triton(scores: Tensor, sequences: Sequences) -> Tensor:
    out = torch.zeros_like(scores)
    bounds = sequences.bounds
    _softmax_kernel[(bounds.shape[0] - 1,)](scores.contiguous(), bounds, out, BLOCK=BLOCK, num_warps=4)
    return out
