"""Affine maps with what comes before or after them in a transformer layer:

- linear: activation(x @ weight.T + bias). Shapes: x [T, K], weight [N, K], bias [N] or None -> [T, N].
- linear_add: residual + linear(x), [T, N]. It may overwrite the residual.
- norm_linear: with n = (x - mean) / sqrt(var + eps) and y = n @ weight.T + bias, activation(y + add), or
  gated (Shazeer, arXiv:2002.05202; GeGLU with "gelu") activation(y[:, :F]) * y[:, F:]. Shapes: x [T, K],
  weight [N, K], bias [N] or None, sums float32 [N], add [T, N] or None -> [T, N], gated [T, F] with N = 2F.
  `weight` and `bias` include the norm's own weight and bias; `sums` has the weight's rows summed, so that
  n @ weight.T = (x @ weight.T - mean * sums) / sqrt(var + eps). Without sums, n = x / sqrt(mean(x^2) + eps).

Outputs have x's dtype. Weights are as `pack_*` returned them, which runs once per weight at load; what they
return may lie in memory of `empty`.
`ACTIVATIONS` holds the activations; "gelu" is the exact erf form (Hendrycks & Gimpel, arXiv:1606.08415). For
16-bit inputs Triton takes it from a polynomial (`_gelu`), whose error, below 1e-6, is far less than that of
rounding to 16 bit.

On a CPU the kernel of csrc/cpu computes float32 (`compiled_linear.py`). Where the package was built without a
compiler, oneDNN does, which keeps weights in a blocked layout of its own: on AVX-512 machines that is two
to three times faster than the row-major GEMM behind `torch.nn.functional.linear`. Triton fuses activation
and norm into a GEMM; a linear map without them is left to cuBLAS. Where there are few rows, every block of
columns of the GEMM sums the norm's statistics itself while it waits for memory. Where there are many, these
sums would be half of the loop's instructions and are worth a launch of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._onednn_pieces import pieces
from gliclass_fast.kernels._triton import tl, triton
from gliclass_fast.kernels.norm import row_statistics_triton


def _gelu_exact(x: Tensor) -> Tensor:
    """Computes F.gelu of a transposed view, which PyTorch does itself: oneDNN would compile it per shape.

    A view of one row is contiguous and would go to oneDNN, which rounds otherwise, so one row becomes two.
    """
    rows = x if x.shape[0] > 1 else torch.cat((x, x))
    return F.gelu(rows.transpose(0, -1)).transpose(0, -1)[: x.shape[0]]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": _gelu_exact,
    "gelu_tanh": _gelu_tanh,
    "relu": torch.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
    "none": lambda x: x,
}
# The table maps an activation to the (name, algorithm) of oneDNN's fused epilogue.
_FUSED_BY_ONEDNN = {
    "none": ("none", ""),
    "gelu": ("gelu", "none"),
    "relu": ("relu", ""),
    "tanh": ("tanh", ""),
}
# The table maps (bytes per value, more than FEW rows) to rows, columns and depth per block, warps and stages.
TILE = {
    (2, False): (64, 64, 64, 4, 4),
    (2, True): (128, 128, 64, 8, 3),
    (4, False): (32, 32, 32, 4, 2),
    (4, True): (64, 64, 32, 4, 2),
}
FEW = 1024
GROUP = 8  # row blocks that walk through the weight together, which then stays in the L2 cache


def activation_reference(x: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](x)


def pack_reference(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    return weight


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    return ACTIVATIONS[activation](F.linear(x, weight, bias))


def linear_add_reference(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return residual + F.linear(x, weight, bias)


def normed(x: Tensor, eps: float, rms: bool) -> Tensor:
    """Returns x without its mean, over its deviation; with rms, x over its root mean square."""
    return F.rms_norm(x, x.shape[-1:], eps=eps) if rms else F.layer_norm(x, x.shape[-1:], eps=eps)


def norm_linear_by(product: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Callable[..., Tensor]:
    """Returns `norm_linear` around a backend's product (x, weight, bias) -> x @ weight.T + bias."""

    def norm_linear(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        sums: Tensor | None,
        eps: float,
        activation: str = "none",
        gated: bool = False,
        add: Tensor | None = None,
    ) -> Tensor:
        return finish(product(normed(x, eps, sums is None), weight, bias), activation, gated, add)

    return norm_linear


def finish(y: Tensor, activation: str, gated: bool, add: Tensor | None) -> Tensor:
    """Does what comes after the product in `norm_linear`."""
    if gated:
        value, gate = y.chunk(2, dim=-1)
        return ACTIVATIONS[activation](value).mul_(gate)
    return ACTIVATIONS[activation](y if add is None else y + add)


norm_linear_reference = norm_linear_by(F.linear)


def pack_onednn(weight: Tensor, empty: Callable[..., Tensor] = torch.empty) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed


def linear_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    fused = _FUSED_BY_ONEDNN.get(activation)
    name, algorithm = fused or ("none", "")
    rows, sizes = x.shape[0], pieces(x.shape[0])
    padded = F.pad(x, (0, 0, 0, sum(sizes) - rows))
    product = torch.ops.mkldnn._linear_pointwise
    outs = [product(piece, weight, bias, name, [], algorithm) for piece in padded.split(sizes)]
    out = torch.cat(outs)[:rows] if len(outs) > 1 else outs[0][:rows]
    return out if fused else ACTIVATIONS[activation](out)


def linear_add_onednn(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    return linear_onednn(x, weight, bias).add_(residual)


norm_linear_onednn = norm_linear_by(linear_onednn)


@triton.jit
def _gelu(x):
    """Returns max(x, 0) - |x| Q(|x|), where Q, the upper tail of the normal distribution, is 2 ** polynomial.

    The polynomial makes the largest error of Q as small as its degree allows: 1.5e-7, or 3e-7 of erf. It
    takes 10 instructions without a branch, while erf takes 32. From 16 on, Q is zero.
    """
    size = tl.minimum(tl.abs(x), 16.0)
    power = 1.9176050e-05 * size - 6.5861334e-04
    power = power * size + 7.7544288e-03
    power = power * size - 5.2965414e-02
    power = power * size - 4.5906025e-01
    power = power * size - 1.1511221
    power = power * size - 0.99999970
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL) - size * tl.math.exp2(power)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr, EXACT: tl.constexpr):
    """Applies an activation to float32 x; EXACT makes "gelu" exact to float32 and not only to 16 bit."""
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476)) if EXACT else _gelu(x)
    elif ACTIVATION == "gelu_tanh":
        x *= tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    elif ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)  # tl.maximum would turn a NaN into 0 and hide an overflow.
    elif ACTIVATION == "silu":
        x *= tl.sigmoid(x)
    elif ACTIVATION == "tanh":
        x = 2.0 * tl.sigmoid(2.0 * x) - 1.0
    return x


@triton.jit(do_not_specialize=["rows"])
def _linear_kernel(
    x, weight, bias, sums, statistics, add, out, rows, eps, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_DEPTH: tl.constexpr, GROUP: tl.constexpr,
    ACTIVATION: tl.constexpr, GATED: tl.constexpr, BIAS: tl.constexpr, NORM: tl.constexpr, RMS: tl.constexpr,
    SUMMED: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(WIDTH, BLOCK_WIDTH)
    group = tl.program_id(0) // (GROUP * across)
    in_group = tl.minimum(tl.cdiv(rows, BLOCK_ROWS) - group * GROUP, GROUP)
    within = tl.program_id(0) % (GROUP * across)
    row = (group * GROUP + within % in_group) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = within // in_group * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    depth = tl.arange(0, BLOCK_DEPTH)
    valid, within_width = row < rows, column < WIDTH
    x_place = x + row.to(tl.int64)[:, None] * DEPTH + depth[None, :]
    w_place = weight + column.to(tl.int64)[:, None] * DEPTH + depth[None, :]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    gate = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    total = tl.zeros([BLOCK_ROWS], tl.float32)
    squares = tl.zeros([BLOCK_ROWS], tl.float32)
    CENTRED: tl.constexpr = NORM and not SUMMED and not RMS
    if CENTRED:
        # Sums of squares would lose the variance of a row whose mean is large: values are taken from a pivot,
        # the mean of the row's first block, which is within sqrt(DEPTH / FIRST) deviations of the whole's.
        FIRST: tl.constexpr = BLOCK_DEPTH if BLOCK_DEPTH < DEPTH else DEPTH
        a = tl.load(x_place, mask=valid[:, None] & (depth < DEPTH)[None, :], other=0.0)
        pivot = tl.sum(a.to(tl.float32), 1) / FIRST
    for start in range(0, DEPTH, BLOCK_DEPTH):
        within_depth = (start + depth < DEPTH)[None, :]
        a = tl.load(x_place + start, mask=valid[:, None] & within_depth, other=0.0)
        b = tl.load(w_place + start, mask=within_width[:, None] & within_depth, other=0.0)
        acc = tl.dot(a, tl.trans(b), acc, input_precision="ieee")
        if NORM and not SUMMED:
            values = a.to(tl.float32)
            if CENTRED:
                values -= pivot[:, None]
                if DEPTH % BLOCK_DEPTH != 0:
                    values = tl.where(within_depth, values, 0.0)
                total += tl.sum(values, 1)
            squares += tl.sum(values * values, 1)
        if GATED:
            b = tl.load(w_place + WIDTH * DEPTH + start, mask=within_width[:, None] & within_depth, other=0.0)
            gate = tl.dot(a, tl.trans(b), gate, input_precision="ieee")
    if NORM:
        if SUMMED:
            mean = tl.load(statistics + row, mask=valid, other=0.0)
            factor = tl.load(statistics + rows + row, mask=valid, other=0.0)[:, None]
        else:
            mean = total / DEPTH  # from the pivot; RMS leaves it zero.
            factor = tl.rsqrt(tl.maximum(squares / DEPTH - mean * mean, 0.0) + eps)[:, None]
            if CENTRED:
                mean += pivot
        if not RMS:
            acc -= mean[:, None] * tl.load(sums + column, mask=within_width, other=0.0)[None, :]
        acc *= factor
        if GATED:
            if not RMS:
                gate_sums = tl.load(sums + WIDTH + column, mask=within_width, other=0.0)
                gate -= mean[:, None] * gate_sums[None, :]
            gate *= factor
    if BIAS:
        acc += tl.load(bias + column, mask=within_width, other=0.0).to(tl.float32)[None, :]
    place = row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    inside = valid[:, None] & within_width[None, :]
    if ADD:
        acc += tl.load(add + place, mask=inside, other=0.0).to(tl.float32)
    acc = activated(acc, ACTIVATION, x.dtype.element_ty == tl.float32)
    if GATED:
        if BIAS:
            gate += tl.load(bias + WIDTH + column, mask=within_width, other=0.0).to(tl.float32)[None, :]
        acc *= gate
    tl.store(out + place, acc.to(out.dtype.element_ty), mask=inside)


def norm_linear_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sums: Tensor | None,
    eps: float | None,
    activation: str = "none",
    gated: bool = False,
    add: Tensor | None = None,
) -> Tensor:
    """Computes `norm_linear`; an eps of None leaves out the norm."""
    x = x.contiguous()
    rows, depth = x.shape
    width = weight.shape[0] // (2 if gated else 1)
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    block_rows, block_width, block_depth, warps, stages = TILE[x.element_size(), rows > FEW]
    if gated:
        block_width //= 2  # There are two accumulators.
    grid = (ceil_div(rows, block_rows) * ceil_div(width, block_width),)
    statistics = None if eps is None or rows <= FEW else row_statistics_triton(x, eps, rms=sums is None)
    absent = weight
    _linear_kernel[grid](
        x, weight, absent if bias is None else bias, absent if sums is None else sums,
        absent if statistics is None else statistics, absent if add is None else add,
        out, rows, eps or 0.0, WIDTH=width, DEPTH=depth,
        BLOCK_ROWS=block_rows, BLOCK_WIDTH=block_width, BLOCK_DEPTH=block_depth, GROUP=GROUP,
        ACTIVATION=activation, GATED=gated, BIAS=bias is not None,
        NORM=eps is not None, RMS=sums is None, SUMMED=statistics is not None, ADD=add is not None,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def linear_triton(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    if activation == "none":
        return F.linear(x, weight, bias)
    return norm_linear_triton(x, weight, bias, None, None, activation)


def linear_add_triton(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    if bias is not None:
        residual += bias
    return residual.addmm_(x, weight.t())
