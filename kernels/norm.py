"""Layer normalisation: it stands alone, after a sum of embeddings, or after a residual sum.

LayerNorm (Ba et al., arXiv:1607.06450): (x - mean) / sqrt(var + eps) * weight + bias over the last dimension;
with rms=True RMSNorm (Zhang & Sennrich, arXiv:1910.07467): x / sqrt(mean(x^2) + eps) * weight. Statistics are
float32. Inputs and outputs share one dtype; weight and bias are [C], and bias may be None.

- layer_norm(x [T, C]) -> [T, C]
- embedding_norm(sources: up to three (table [V, C], rows int32 [T]) pairs) -> LayerNorm of the sum of the
  gathered rows, [T, C]
- add_norm(x [T, C], residual [T, C]) -> the norm of x + residual, [T, C]
- head_norm(x [T, H, D], weight [H, D], eps, cos [T, D / 2], sin [T, D / 2]) -> RMSNorm of every head on its
  own, turned to its position: y * cos + rotate_half(y) * sin (Su et al., arXiv:2104.09864), contiguous
  [T, H, D]. Rows of x may be strided; cos and sin are float32 or of the dtype of x.
- row_statistics(x [T, C]) -> float32 [2, T]. For LayerNorm these are the mean and 1 / sqrt(var + eps) of
  every row, for RMSNorm 0 and 1 / sqrt(mean(x^2) + eps). `norm_linear` (linear.py) reads them where there
  are many rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels._triton import power_of_2, tl, triton

WARPS = 4


def layer_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False
) -> Tensor:
    full, shape = x.float(), x.shape[-1:]
    if rms:
        return F.rms_norm(full, shape, weight.float(), eps).to(x.dtype)
    return F.layer_norm(full, shape, weight.float(), None if bias is None else bias.float(), eps).to(x.dtype)


def embedding_norm_reference(
    sources: Sequence[tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    (table, rows), *rest = sources
    total = F.embedding(rows, table)
    for table, rows in rest:
        total = total + F.embedding(rows, table)
    return layer_norm_reference(total, weight, bias, eps)


def add_norm_reference(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False
) -> Tensor:
    return layer_norm_reference(x + residual, weight, bias, eps, rms)


def head_norm_reference(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    full = x.float()
    factors = (full.square().mean(-1, keepdim=True) + eps).rsqrt_()
    first, second = (full * factors).mul_(weight.float()).chunk(2, dim=-1)
    out, cos, sin = torch.empty_like(full, memory_format=torch.contiguous_format), cos[:, None], sin[:, None]
    half = x.shape[-1] // 2
    torch.sub(first * cos, second * sin, out=out[..., :half])
    torch.add(second * cos, first * sin, out=out[..., half:])
    return out.to(x.dtype)


@triton.jit
def _statistics(x, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, RMS: tl.constexpr):
    """Returns (mean, x - mean, 1 / deviation) of one row of float32 values, which are zeros from WIDTH on."""
    mean = 0.0
    if not RMS:
        mean = tl.sum(x, 0) / WIDTH
        x = tl.where(tl.arange(0, BLOCK) < WIDTH, x - mean, 0.0)
    return mean, x, tl.rsqrt(tl.sum(x * x, 0) / WIDTH + eps)


@triton.jit
def _normed(
    x, weight, bias, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, RMS: tl.constexpr, BIAS: tl.constexpr
):
    """Returns the norm of one row of float32 values, which are zeros from WIDTH on."""
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    _, x, factor = _statistics(x, eps, WIDTH, BLOCK, RMS)
    x *= factor
    x *= tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
    return x


@triton.jit
def _norm_kernel(
    x, residual, out, weight, bias, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr, RMS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    place = tl.program_id(0).to(tl.int64) * WIDTH + column
    values = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    values = _normed(values, weight, bias, eps, WIDTH, BLOCK, RMS, BIAS)
    tl.store(out + place, values.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _row_statistics_kernel(x, out, rows, eps, WIDTH: tl.constexpr, BLOCK: tl.constexpr, RMS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    values = tl.load(x + row * WIDTH + column, mask=column < WIDTH, other=0.0).to(tl.float32)
    mean, _, factor = _statistics(values, eps, WIDTH, BLOCK, RMS)
    tl.store(out + row, mean)
    tl.store(out + rows + row, factor)


@triton.jit
def _embedding_norm_kernel(
    table, rows, table_2, rows_2, table_3, rows_3, out, weight, bias, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, SOURCES: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < WIDTH
    place = tl.load(rows + token).to(tl.int64) * WIDTH + column
    values = tl.load(table + place, mask=mask, other=0.0).to(tl.float32)
    if SOURCES >= 2:
        place = tl.load(rows_2 + token).to(tl.int64) * WIDTH + column
        values += tl.load(table_2 + place, mask=mask, other=0.0).to(tl.float32)
    if SOURCES == 3:
        place = tl.load(rows_3 + token).to(tl.int64) * WIDTH + column
        values += tl.load(table_3 + place, mask=mask, other=0.0).to(tl.float32)
    values = _normed(values, weight, bias, eps, WIDTH, BLOCK, False, BIAS)
    tl.store(out + token * WIDTH + column, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _head_norm_kernel(
    x, out, weight, cos, sin, eps, stride, HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr
):
    head = tl.program_id(0) % HEADS
    row = (tl.program_id(0) // HEADS).to(tl.int64)
    column = tl.arange(0, BLOCK)
    mask = column < HALF
    values = x + row * stride + head * 2 * HALF + column
    first = tl.load(values, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(values + HALF, mask=mask, other=0.0).to(tl.float32)
    factor = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / (2 * HALF) + eps)
    scale = weight + head * 2 * HALF + column
    first *= factor * tl.load(scale, mask=mask, other=0.0).to(tl.float32)
    second *= factor * tl.load(scale + HALF, mask=mask, other=0.0).to(tl.float32)
    c = tl.load(cos + row * HALF + column, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + row * HALF + column, mask=mask, other=0.0).to(tl.float32)
    target = out + (row * HEADS + head) * 2 * HALF + column
    tl.store(target, (first * c - second * s).to(out.dtype.element_ty), mask=mask)
    tl.store(target + HALF, (second * c + first * s).to(out.dtype.element_ty), mask=mask)


def head_norm_triton(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    rows, heads, width = x.shape
    out = torch.empty(rows, heads, width, dtype=x.dtype, device=x.device)
    _head_norm_kernel[(rows * heads,)](
        x, out, weight, cos.contiguous(), sin.contiguous(), eps, x.stride(0),
        HEADS=heads, HALF=width // 2, BLOCK=power_of_2(width // 2), num_warps=1,
    )  # fmt: skip
    return out


def _launch(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float, rms: bool
) -> Tensor:
    x = x.contiguous()
    rows, width = x.shape
    out = torch.empty_like(x)
    _norm_kernel[(rows,)](
        x, x if residual is None else residual, out, weight, weight if bias is None else bias, eps,
        WIDTH=width, BLOCK=power_of_2(width), ADD=residual is not None, RMS=rms, BIAS=bias is not None,
        num_warps=WARPS,
    )  # fmt: skip
    return out


def layer_norm_triton(
    x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False
) -> Tensor:
    return _launch(x, None, weight, bias, eps, rms)


def add_norm_triton(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, eps: float, rms: bool = False
) -> Tensor:
    return _launch(x, residual, weight, bias, eps, rms)


def row_statistics_triton(x: Tensor, eps: float, rms: bool = False) -> Tensor:
    """Returns the statistics of x, which must be contiguous."""
    rows, width = x.shape
    out = torch.empty(2, rows, dtype=torch.float32, device=x.device)
    # With one warp, a row's sums need neither shared memory nor a barrier.
    _row_statistics_kernel[(rows,)](
        x, out, rows, eps, WIDTH=width, BLOCK=power_of_2(width), RMS=rms, num_warps=1
    )
    return out


def embedding_norm_triton(
    sources: Sequence[tuple[Tensor, Tensor]], weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    if len(sources) > 3:
        raise ValueError(f"embedding_norm takes up to three sources, got {len(sources)}")
    first = sources[0]
    flat = [tensor for pair in (*sources, first, first)[:3] for tensor in pair]
    count, width = first[1].shape[0], weight.shape[0]
    out = torch.empty(count, width, dtype=weight.dtype, device=weight.device)
    _embedding_norm_kernel[(count,)](
        *flat, out, weight, weight if bias is None else bias, eps,
        WIDTH=width, BLOCK=power_of_2(width), SOURCES=len(sources), BIAS=bias is not None, num_warps=WARPS,
    )  # fmt: skip
    return out
