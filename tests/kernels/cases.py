"""Every operation has cases at odd sizes, with its contract written once more the slow way.

A case is (operation, function of a dtype -> (arguments, slow(precision) -> what should come out)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels.linear import ACTIVATIONS
from gliclass_fast.kernels.segment_pool import REDUCTIONS
from gliclass_fast.ops import IMPLEMENTATIONS, DistanceTables, Positions, implementation
from tests.accuracy import assert_accurate
from tests.kernels import adapter_cases, linear_cases
from tests.kernels.causal_cases import Slow, causal_attention, head_norm
from tests.kernels.layouts import (
    HEADS,
    LENGTHS,
    SPARE,
    WIDTH,
    cumulative,
    sequences,
    slow_norm,
    with_spare,
)


def slow_attention(scores: Tensor, v: Tensor, cu: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Attends with scores [H, T, T] to v [T, H, D], within sequences -> [T + SPARE, H * D]."""
    owner = torch.searchsorted(cu[1:].contiguous(), torch.arange(v.shape[0]), right=True)
    keep = owner[:, None] == owner
    if allowed is not None:
        keep &= allowed
    weights = scores.masked_fill(~keep, -math.inf).softmax(-1)
    out = torch.einsum("hij,jhd->ihd", weights, v).flatten(1)
    return torch.cat((out, out.new_zeros(SPARE, out.shape[1])))


def distances(total: int) -> Tensor:
    places = torch.arange(total)
    return places[:, None] - places


def disentangled_attention(
    dtype: torch.dtype,
    reach: int = 40,
    lengths: Sequence[int] = LENGTHS,
    without: str = "",
    width: int = WIDTH,
) -> tuple[Any, Slow]:
    total, cu = sum(lengths), cumulative(lengths)
    ends = torch.tensor([0]), torch.tensor([reach + 1])
    bucket_of = torch.cat((ends[0], 1 + torch.arange(2 * reach - 1) // 2, ends[1]))
    qkv = torch.randn(total, 3, HEADS, width).to(dtype)
    tables = [torch.randn(HEADS, width, reach + 2).to(dtype) for _ in range(2)]
    keys, queries = (None if name == without else t for name, t in zip(("c2p", "p2c"), tables, strict=True))
    scale = (3 * width) ** -0.5

    def slow(precision: torch.dtype) -> Tensor:
        q, k, v = qkv.to(precision).unbind(1)
        bucket = bucket_of[distances(total).clamp(-reach, reach) + reach]
        scores = torch.einsum("ihd,jhd->hij", q, k)
        if keys is not None:
            of_buckets = torch.einsum("ihd,hdb->hib", q, keys.to(precision))
            scores = scores + of_buckets.gather(2, bucket.expand_as(scores))
        if queries is not None:
            of_buckets = torch.einsum("jhd,hdb->hbj", k, queries.to(precision))
            scores = scores + of_buckets.gather(1, bucket.expand_as(scores))
        return slow_attention(scores * scale, v, cu)

    distance_tables = DistanceTables(keys, queries, bucket_of)
    return (with_spare(qkv), sequences(cu, spare=SPARE), scale, distance_tables), slow


def attention(
    dtype: torch.dtype,
    rotary: bool = False,
    window: int | None = None,
    biased: bool = False,
    lengths: Sequence[int] = LENGTHS,
    width: int = WIDTH,
) -> tuple[Any, Slow]:
    total, cu = sum(lengths), cumulative(lengths)
    qkv = torch.randn(total, 3, HEADS, width).to(dtype)
    angles = torch.randn(max(lengths), width // 2)
    tables = angles.cos().to(dtype), angles.sin().to(dtype)
    bias = torch.randn(HEADS, 2 * 9 + 1) if biased else None
    allowed = None if window is None else distances(total).abs() <= window

    def slow(precision: torch.dtype) -> Tensor:
        q, k, v = qkv.to(precision).unbind(1)
        if rotary:
            place = torch.cat([torch.arange(length) for length in lengths])
            c, s = (table[place, None].to(precision) for table in tables)
            q, k = (
                torch.cat((a * c - b * s, b * c + a * s), dim=-1)
                for a, b in (x.chunk(2, dim=-1) for x in (q, k))
            )
        scores = torch.einsum("ihd,jhd->hij", q, k) * width**-0.5
        if bias is not None:
            scores = scores + bias.to(precision)[:, distances(total).clamp(-9, 9) + 9]
        return slow_attention(scores, v, cu, allowed)

    positions = Positions(tables if rotary else None, window, bias)
    return (with_spare(qkv), sequences(cu, spare=SPARE), width**-0.5, positions), slow


def cross_attention(dtype: torch.dtype, width: int = WIDTH, heads: int = 8) -> tuple[Any, Slow]:
    cu, rows = cumulative([3, 1, 140]), 27
    q, k, v = (torch.randn(n, heads, width).to(dtype) for n in (144, rows, rows))
    spans = torch.tensor([[2, 7], [2, 6], [10, 27]]).int()  # Two begin with one key.

    def slow(precision: torch.dtype) -> Tensor:
        out = []
        for n, (start, end) in enumerate(spans.tolist()):
            part = q[cu[n] : cu[n + 1]].to(precision)
            scores = torch.einsum("ihd,jhd->hij", part, k[start:end].to(precision)) * width**-0.5
            out.append(
                torch.einsum("hij,jhd->ihd", scores.softmax(-1), v[start:end].to(precision)).flatten(1)
            )
        return torch.cat(out)

    return (q, k, v, sequences(cu, spans)), slow


def attention_pool(dtype: torch.dtype, width: int = 45) -> tuple[Any, Slow]:
    cu, spans = cumulative([3, 1, 20]), torch.tensor([[2, 6], [6, 7], [10, 67]]).int()
    queries, rows = torch.randn(24, width).to(dtype), torch.randn(67, width).to(dtype)

    def slow(precision: torch.dtype) -> Tensor:
        out = []
        for n, (start, end) in enumerate(spans.tolist()):
            own = rows[start:end].to(precision)
            out.append((0.3 * queries[cu[n] : cu[n + 1]].to(precision) @ own.T).softmax(-1) @ own)
        return torch.cat(out)

    return (queries, rows, sequences(cu, spans), 0.3), slow


def norm(
    dtype: torch.dtype,
    add: bool = False,
    biased: bool = True,
    rms: bool = False,
    size: tuple[int, int] = (17, 31),
) -> tuple[Any, Slow]:
    x, residual, weight, bias = (torch.randn(*each).to(dtype) for each in (size, size, size[1:], size[1:]))
    offset = bias if biased else None

    def slow(precision: torch.dtype) -> Tensor:
        total = x.to(precision) + residual.to(precision) if add else x.to(precision)
        return slow_norm(total, weight, offset, rms)

    return (x, *([residual] if add else []), weight, offset, 1e-7, rms), slow


def embedding_norm(
    dtype: torch.dtype, sources: int = 3, count: int = 17, width: int = 31
) -> tuple[Any, Slow]:
    tables = [torch.randn(5, width).to(dtype) for _ in range(sources)]
    rows = [torch.randint(0, 5, (count,), dtype=torch.int32) for _ in tables]
    weight, bias = (torch.randn(width).to(dtype) for _ in range(2))

    def slow(precision: torch.dtype) -> Tensor:
        found = [table.to(precision)[index.long()] for table, index in zip(tables, rows, strict=True)]
        return slow_norm(sum(found[1:], found[0]), weight, bias, rms=False)

    return (list(zip(tables, rows, strict=True)), weight, bias, 1e-7), slow


def pair(
    dtype: torch.dtype, activation: str | None = None, counts: Sequence[int] = (3, 1, 5), width: int = 45
) -> tuple[Any, Slow]:
    text, labels = torch.randn(len(counts), width).to(dtype), torch.randn(sum(counts), width).to(dtype)
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).int()

    def slow(precision: torch.dtype) -> Tensor:
        a, b = text.to(precision)[owner.long()], labels.to(precision)
        return (a * b).sum(-1) if activation is None else ACTIVATIONS[activation](a + b)

    return (text, labels, owner, *([] if activation is None else [activation])), slow


def segment_pool(dtype: torch.dtype, reduce: str) -> tuple[Any, Slow]:
    rows, spans = torch.randn(90, 150).to(dtype), torch.tensor([[1, 4], [4, 4], [6, 7], [9, 90]]).int()
    mapped, is_sum = REDUCTIONS[reduce]

    def slow(precision: torch.dtype) -> Tensor:
        values = mapped(rows.to(precision))
        parts = [values[start:end] for start, end in spans.tolist()]
        if is_sum:
            return torch.stack([part.sum(0) for part in parts])
        empty = values.new_full((150,), -math.inf)
        return torch.stack([part.amax(0) if len(part) else empty for part in parts])

    return (rows, spans, reduce), slow


def segment_softmax(dtype: torch.dtype) -> tuple[Any, Slow]:
    cu = cumulative([3, 1, 200])
    scores = (torch.randn(204) * 30).to(dtype)

    def slow(precision: torch.dtype) -> Tensor:
        return torch.cat([part.softmax(0) for part in scores.to(precision).split([3, 1, 200])])

    return (scores, sequences(cu)), slow


CASES: dict[str, tuple[str, Callable[[torch.dtype], tuple[Any, Slow]]]] = {
    **{
        f"disentangled attention, reach {reach}": (
            "disentangled_attention",
            partial(disentangled_attention, reach=reach),
        )
        for reach in (3, 40, 400)
    },
    **{
        f"disentangled attention without {term}": (
            "disentangled_attention",
            partial(disentangled_attention, lengths=[7, 3], without=term),
        )
        for term in ("c2p", "p2c")
    },
    **{
        f"attention, rotary {rotary}, window {window}": (
            "attention",
            partial(attention, rotary=rotary, window=window),
        )
        for rotary in (False, True)
        for window in (None, 4, 64)
    },
    "attention with distance bias": ("attention", partial(attention, biased=True)),
    "attention with distance bias and window": ("attention", partial(attention, biased=True, window=20)),
    "attention, rotary, 160 wide": ("attention", partial(attention, rotary=True, width=160)),
    "cross attention": ("cross_attention", cross_attention),
    **{
        f"cross attention, {width} wide": (
            "cross_attention",
            partial(cross_attention, width=width, heads=2),
        )
        for width in (384, 768)
    },
    **{
        f"causal attention, {group} to a head, kept {kept}": (
            "causal_attention",
            partial(causal_attention, group=group, width=width, kept=kept),
        )
        for group, width, kept in (
            (1, WIDTH, None),
            (3, 16, None),
            (2, 40, [0, 5, 200, 33]),
            (6, 8, None),
            (1, 256, [9, 40, 0, 3]),
        )
    },
    **{f"head norm, {width} wide": ("head_norm", partial(head_norm, width=width)) for width in (WIDTH, 64)},
    **{
        f"attention pool, {width} wide": ("attention_pool", partial(attention_pool, width=width))
        for width in (45, 160)
    },
    **{
        f"layer norm, bias {biased}, rms {rms}": ("layer_norm", partial(norm, biased=biased, rms=rms))
        for biased, rms in ((True, False), (False, False), (False, True))
    },
    "add norm": ("add_norm", partial(norm, add=True)),
    "add norm, rms": ("add_norm", partial(norm, add=True, biased=False, rms=True)),
    **{f"embedding norm of {n}": ("embedding_norm", partial(embedding_norm, sources=n)) for n in (1, 2, 3)},
    **linear_cases.CASES,
    **{f"pair dot, {width} wide": ("pair_dot", partial(pair, width=width)) for width in (45, 300)},
    "pair add": ("pair_add", partial(pair, activation="none")),
    **{
        f"pair add, {activation}": ("pair_add", partial(pair, activation=activation))
        for activation in ("relu", "gelu")
    },
    **{
        f"segment pool, {reduce}": ("segment_pool", partial(segment_pool, reduce=reduce))
        for reduce in REDUCTIONS
    },
    "segment softmax": ("segment_softmax", segment_softmax),
    **adapter_cases.CASES,
}


def moved(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(each, device) for key, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(moved(getattr(value, field.name), device) for field in fields(value)))
    return type(value)(moved(each, device) for each in value) if isinstance(value, (list, tuple)) else value


def packed(operation: str, backend: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gives the arguments with weights and tables as this backend keeps them."""
    values = list(arguments)
    if operation in ("linear", "linear_add", "norm_linear"):
        layout = backend if backend in IMPLEMENTATIONS["pack_linear"] else "reference"
        values[1] = implementation("pack_linear", layout)(values[1])
    if operation == "grouped_linear":
        values[0] = implementation("linear", backend)
    if operation in ("disentangled_attention", "adapted_attention"):
        values[3] = implementation("pack_distances", backend)(values[3])
    if operation in ("lora_add", "adapted_attention"):
        values[3 if operation == "lora_add" else 5] = adapter_cases.filled(operation, backend, values)
    return tuple(values)


def check(
    name: str, backend: str, dtype: torch.dtype, device: str = "cpu", rounding: torch.dtype | None = None
) -> None:
    """Checks a case; rounding: that of a backend which rounds more than `dtype` does."""
    operation, build = CASES[name]
    torch.manual_seed(0)  # A case draws the same, whichever come before it.
    arguments, slow = build(dtype)
    run = implementation(operation, backend)
    found = run(*packed(operation, backend, moved(arguments, device)))
    exact, low = slow(torch.float64), slow(rounding or dtype)
    if isinstance(found, Tensor):
        found, exact, low = (found,), (exact,), (low,)
    for one, true, rounded in zip(found, exact, low, strict=True):
        assert one.dtype is dtype
        finite = torch.isfinite(true)
        assert torch.equal(one.cpu()[~finite].double(), true[~finite])
        assert_accurate(one.cpu()[finite], true[finite], rounded[finite])
