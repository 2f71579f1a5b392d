"""Operations on every label with the text of its prompt: they make no copy of the text per label.

- pair_dot: out_l = sum_c text[owner_l, c] * labels[l, c]. Shapes: text [N, C], labels [L, C] -> [L].
- pair_add: out_l = activation(text[owner_l] + labels[l]). Shapes as above -> [L, C].

owner, int32 [L], names the prompt of every label. Sums are float32, and outputs have the labels' dtype. A
bilinear scorer is `pair_dot` of text vectors and a linear map of the label vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._triton import power_of_2, tl, triton
from gliclass_fast.kernels.linear import ACTIVATIONS, activated

COLUMNS = 1024


def pair_dot_reference(text: Tensor, labels: Tensor, owner: Tensor) -> Tensor:
    return (text[owner].float() * labels.float()).sum(-1).to(labels.dtype)


def pair_add_reference(text: Tensor, labels: Tensor, owner: Tensor, activation: str = "none") -> Tensor:
    return ACTIVATIONS[activation](text[owner] + labels)


@triton.jit
def _pair_dot_kernel(text, labels, owner, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    label = tl.program_id(0).to(tl.int64)
    prompt = tl.load(owner + label).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    a = tl.load(text + prompt * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(labels + label * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + label, tl.sum(a * b, 0).to(out.dtype.element_ty))


@triton.jit
def _pair_add_kernel(
    text, labels, owner, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ACTIVATION: tl.constexpr
):
    label = tl.program_id(0).to(tl.int64)
    prompt = tl.load(owner + label).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < WIDTH
    a = tl.load(text + prompt * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(labels + label * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    sums = activated(a + b, ACTIVATION, labels.dtype.element_ty == tl.float32)
    tl.store(out + label * WIDTH + column, sums.to(out.dtype.element_ty), mask=mask)


def pair_dot_triton(text: Tensor, labels: Tensor, owner: Tensor) -> Tensor:
    text, labels = text.contiguous(), labels.contiguous()
    count, width = labels.shape
    out = torch.empty(count, dtype=labels.dtype, device=labels.device)
    _pair_dot_kernel[(count,)](text, labels, owner, out, WIDTH=width, BLOCK=power_of_2(width), num_warps=4)
    return out


def pair_add_triton(text: Tensor, labels: Tensor, owner: Tensor, activation: str = "none") -> Tensor:
    text, labels = text.contiguous(), labels.contiguous()
    count, width = labels.shape
    out = torch.empty_like(labels)
    block = min(power_of_2(width), COLUMNS)
    _pair_add_kernel[(count, ceil_div(width, block))](
        text, labels, owner, out, WIDTH=width, BLOCK=block, ACTIVATION=activation, num_warps=4
    )
    return out
