"""Kernel references against their contracts, written once more the slow way in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gliclass_fast.kernels.attention import attention_reference
from gliclass_fast.kernels.cross_attention import cross_attention_reference
from gliclass_fast.kernels.disentangled_attention import disentangled_attention_reference, distance_columns
from gliclass_fast.kernels.gated_linear_unit import gated_linear_unit_reference
from gliclass_fast.kernels.linear import ACTIVATIONS, linear_onednn, linear_reference, pack_onednn
from gliclass_fast.kernels.norm import add_norm_reference, embedding_norm_reference, layer_norm_reference
from gliclass_fast.kernels.segment_pool import segment_pool_reference
from gliclass_fast.kernels.segment_softmax import segment_softmax_reference
from gliclass_fast.ops import IMPLEMENTATIONS, choose_ops
from tests.accuracy import assert_accurate

LENGTHS = [1, 17, 63, 257]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def cumulative(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


def slow_attention(scores: Tensor, v: Tensor, cu: Tensor, allowed: Tensor | None = None) -> Tensor:
    """scores [H, T, T] and v [T, H, D] -> [T, H * D]; only pairs of one sequence count."""
    owner = torch.searchsorted(cu[1:].contiguous(), torch.arange(v.shape[0]), right=True)
    keep = owner[:, None] == owner
    if allowed is not None:
        keep &= allowed
    weights = scores.masked_fill(~keep, -math.inf).softmax(-1)
    return torch.einsum("hij,jhd->ihd", weights, v).flatten(1)


def slow_disentangled(
    qkv: Tensor, keys: Tensor, queries: Tensor, slots: Tensor, cu: Tensor, scale: float
) -> Tensor:
    q, k, v = qkv.unbind(1)
    reach = slots.numel() // 2
    places = torch.arange(qkv.shape[0])
    slot = slots[(places[:, None] - places).clamp(-reach, reach) + reach]
    scores = torch.einsum("ihd,jhd->hij", q, k)
    scores = scores + torch.einsum("ihd,hdij->hij", q, keys[:, :, slot])
    scores = scores + torch.einsum("jhd,hdij->hij", k, queries[:, :, slot])
    return slow_attention(scores * scale, v, cu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reach", [3, 40, 400])
def test_disentangled_attention(dtype: torch.dtype, reach: int) -> None:
    lengths = [1, 17, 63, 9]
    slots = (torch.arange(-reach, reach + 1) // 2 + reach // 2 + 1).clamp(0, reach)
    qkv = torch.randn(sum(lengths), 3, 2, 8).to(dtype)
    keys, queries = (torch.randn(2, 8, reach + 1).to(dtype) for _ in range(2))
    arguments = (slots, cumulative(lengths), 24**-0.5)
    exact = slow_disentangled(qkv.double(), keys.double(), queries.double(), *arguments)
    low = slow_disentangled(qkv, keys, queries, *arguments)
    assert_accurate(disentangled_attention_reference(qkv, keys, queries, *arguments), exact, low)


@pytest.mark.parametrize("missing", ["keys", "queries"])
def test_disentangled_attention_with_one_term(missing: str) -> None:
    slots, cu = torch.arange(11), cumulative([7, 3])
    qkv, table = torch.randn(10, 3, 2, 8), torch.randn(2, 8, 11)
    keys, queries = (None, table) if missing == "keys" else (table, None)
    full = [torch.zeros_like(table) if t is None else t for t in (keys, queries)]
    exact = slow_disentangled(qkv.double(), *(t.double() for t in full), slots, cu, 0.25)
    low = slow_disentangled(qkv, *full, slots, cu, 0.25)
    assert_accurate(disentangled_attention_reference(qkv, keys, queries, slots, cu, 0.25), exact, low)


def test_short_sequences_read_the_table_in_place() -> None:
    table = torch.randn(2, 8, 32)
    slots = torch.cat((torch.zeros(20), torch.arange(32), torch.full((21,), 31))).long()
    columns = distance_columns(table, slots, 9)
    assert columns.data_ptr() != table.data_ptr() and columns.untyped_storage().data_ptr() == table.data_ptr()
    assert torch.equal(distance_columns(table, slots, 40)[:, :, 39], table[:, :, slots[36]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 4, 64])
@pytest.mark.parametrize("rotary", [True, False])
def test_attention(dtype: torch.dtype, window: int | None, rotary: bool) -> None:
    total, cu = sum(LENGTHS), cumulative(LENGTHS)
    qkv = torch.randn(total, 3, 2, 8).to(dtype)
    angles = torch.randn(total, 4).repeat(1, 2)
    tables = (angles.cos(), angles.sin()) if rotary else None
    places = torch.arange(total)
    allowed = None if window is None else (places[:, None] - places).abs() <= window

    def slow(precision: torch.dtype) -> Tensor:
        q, k, v = qkv.to(precision).unbind(1)
        if rotary:
            turned = []
            for x in (q, k):
                a, b = x.chunk(2, dim=-1)
                c, s = (t[:, None, :4].to(precision) for t in (angles.cos(), angles.sin()))
                turned.append(torch.cat((a * c - b * s, b * c + a * s), dim=-1))
            q, k = turned
        return slow_attention(torch.einsum("ihd,jhd->hij", q, k) * 8**-0.5, v, cu, allowed)

    out = attention_reference(qkv, cu, 8**-0.5, tables, window)
    assert_accurate(out, slow(torch.float64), slow(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_attention(dtype: torch.dtype) -> None:
    counts, lengths = [3, 1, 5], [6, 1, 20]
    q, k, v = (torch.randn(n, 2, 8).to(dtype) for n in (9, 27, 27))
    spans = torch.tensor([[2, 6], [6, 7], [10, 27]]).int()

    def slow(precision: torch.dtype) -> Tensor:
        out = []
        first = 0
        for count, (start, end) in zip(counts, spans.tolist(), strict=True):
            part = q[first : first + count].to(precision)
            scores = torch.einsum("ihd,jhd->hij", part, k[start:end].to(precision)) * 8**-0.5
            out.append(
                torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[start:end].to(precision)).flatten(1)
            )
            first += count
        return torch.cat(out)

    assert sum(lengths) == len(k)
    out = cross_attention_reference(q, k, v, cumulative(counts), spans)
    assert_accurate(out, slow(torch.float64), slow(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_norms(dtype: torch.dtype, bias: bool) -> None:
    x, residual, weight = (torch.randn(*shape).to(dtype) for shape in ((17, 31), (17, 31), (31,)))
    offset = torch.randn(31).to(dtype) if bias else None

    def slow(y: Tensor, precision: torch.dtype) -> Tensor:
        y = y.to(precision)
        centred = y - y.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-7).sqrt() * weight.to(precision)
        return scaled if offset is None else scaled + offset.to(precision)

    assert_accurate(layer_norm_reference(x, weight, offset, 1e-7), slow(x, torch.float64), slow(x, dtype))
    total, normed = add_norm_reference(x, residual, weight, offset, 1e-7)
    assert torch.equal(total, x + residual)
    assert_accurate(normed, slow(total, torch.float64), slow(total, dtype))
    tables = [torch.randn(5, 31).to(dtype) for _ in range(3)]
    rows = [torch.randint(0, 5, (17,), dtype=torch.int32) for _ in tables]
    summed = sum(table[index.long()].double() for table, index in zip(tables, rows, strict=True))
    out = embedding_norm_reference(list(zip(tables, rows, strict=True)), weight, offset, 1e-7)
    rounded = tables[0][rows[0].long()] + tables[1][rows[1].long()] + tables[2][rows[2].long()]
    assert_accurate(out, slow(summed, torch.float64), slow(rounded, dtype))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 17, 63])
def test_linear_onednn(activation: str, bias: bool, rows: int) -> None:
    x, weight, offset = torch.randn(rows, 33), torch.randn(19, 33), torch.randn(19) if bias else None
    packed = pack_onednn(weight)
    assert packed.is_mkldnn
    exact = linear_reference(
        x.double(), weight.double(), None if offset is None else offset.double(), activation
    )
    assert_accurate(
        linear_onednn(x, packed, offset, activation), exact, linear_reference(x, weight, offset, activation)
    )


def test_onednn_is_chosen_for_float32_only() -> None:
    assert choose_ops("cpu").chosen["linear"] == choose_ops("cpu").chosen["pack_linear"] == "onednn"
    assert choose_ops("cpu", torch.bfloat16).chosen["linear"] == "reference"
    with pytest.raises(ValueError, match="float32 weights only"):
        choose_ops("cpu", torch.bfloat16, only="onednn")
    assert IMPLEMENTATIONS["linear"].keys() == IMPLEMENTATIONS["pack_linear"].keys()  # they share a layout


def test_float16_products_that_fit_once_scaled_stay_finite() -> None:
    """Unscaled, q . k would be 64 * 40 * 40 = 102,400, beyond float16; scaled it is 7,390."""
    qkv = torch.full((5, 3, 2, 64), 40.0, dtype=torch.float16)
    table = torch.full((2, 64, 3), 40.0, dtype=torch.float16)
    out = disentangled_attention_reference(qkv, table, table, torch.arange(3), cumulative([5]), 192**-0.5)
    assert torch.equal(out, torch.full_like(out, 40.0))


def test_gelu_is_the_exact_form() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert torch.allclose(ACTIVATIONS["gelu"](x), x * (1 + torch.erf(x / math.sqrt(2))) / 2, atol=1e-14)


def test_gated_linear_unit() -> None:
    x = torch.randn(5, 12)
    expected = torch.nn.functional.gelu(x[:, :6]) * x[:, 6:]
    assert torch.equal(gated_linear_unit_reference(x, "gelu"), expected)


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_segment_pool(reduce: str) -> None:
    rows = torch.randn(20, 5)
    spans = torch.tensor([[1, 4], [4, 4], [6, 7], [9, 20]]).int()
    out = segment_pool_reference(rows, spans, reduce)
    assert out[1].eq(0 if reduce == "sum" else -math.inf).all()
    for index in (0, 2, 3):
        start, end = spans[index].tolist()
        part = rows[start:end].double()
        exact = part.sum(0) if reduce == "sum" else part.amax(0)
        assert_accurate(out[index], exact, exact.float())


def test_segment_softmax() -> None:
    scores = torch.randn(9) * 30
    owner = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2, 2]).int()
    out = segment_softmax_reference(scores, owner, 3)
    for segment in range(3):
        part = scores[owner == segment]
        assert_accurate(out[owner == segment], part.double().softmax(0), part.softmax(0))
