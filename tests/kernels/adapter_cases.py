"""Cases of operations whose rows have adapters: of linear maps, and of disentangled attention's tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels.linear import ACTIVATIONS
from gliclass_fast.ops import (
    IMPLEMENTATIONS,
    AdapterRows,
    DistanceTables,
    Factors,
    Part,
    TableUpdate,
    implementation,
)
from tests.kernels.layouts import HEADS, LENGTHS, WIDTH, cumulative, sequences, with_spare

BOUNDS = (0, 40, 56, 72)  # of the parts of a map


def lora_add(
    dtype: torch.dtype, slots: Sequence[int], ranks: Sequence[int] = (4, 4), activation: str = "none"
) -> tuple[Any, Any]:
    """Rows of 17, 1, 63 and 5 tokens have these slots; a slot holds an adapter of the rank in its place."""
    of_rows = torch.tensor(slots).repeat_interleave(torch.tensor([17, 1, 63, 5])).int()
    x, y = torch.randn(len(of_rows), 33).to(dtype), torch.randn(len(of_rows), BOUNDS[-1]).to(dtype)
    updates: dict[int, list[Part]] = {}
    for slot, rank in enumerate(ranks):
        parts = [0, 2] if slot % 2 else [0, 1, 2]  # some adapters leave a part as it is
        updates[slot] = [
            Part(
                BOUNDS[n],
                torch.randn(rank, 33) * 33**-0.5,
                torch.randn(BOUNDS[n + 1] - BOUNDS[n], rank) * rank**-0.5,
            )
            for n in parts
        ]

    def slow(precision: torch.dtype) -> Tensor:
        out = y.to(precision).clone()
        for row, slot in enumerate(of_rows.tolist()):
            for part in updates.get(slot, []):
                inner = part.a.to(dtype).to(precision) @ x[row].to(precision)
                out[row, part.start : part.start + len(part.b)] += part.b.to(dtype).to(precision) @ inner
        return ACTIVATIONS[activation](out)

    # a copy goes in: the operation may overwrite it
    return (y.clone(), x, AdapterRows(of_rows), updates, activation), slow


def adapted_attention(
    dtype: torch.dtype,
    slots: Sequence[int],
    lengths: Sequence[int] = LENGTHS,
    without: str = "",
    reach: int = 40,
    width: int = WIDTH,
) -> tuple[Any, Any]:
    """Sequences of so many rows have these slots: 0 changes both tables, 1 the keys', 2 the queries'."""
    total, cu = sum(lengths), cumulative(lengths)
    ends = torch.tensor([0]), torch.tensor([reach + 1])
    bucket_of = torch.cat((ends[0], 1 + torch.arange(2 * reach - 1) // 2, ends[1]))
    qkv, scale = torch.randn(total, 3, HEADS, width).to(dtype), (3 * width) ** -0.5
    tables = [torch.randn(HEADS, width, reach + 2).to(dtype) for _ in range(2)]
    keys, queries = (None if name == without else t for name, t in zip(("c2p", "p2c"), tables, strict=True))

    def factors() -> Factors:
        return Factors(torch.randn(3, reach + 2), torch.randn(HEADS * width, 3))

    changes = [TableUpdate(factors(), factors()), TableUpdate(factors(), None), TableUpdate(None, factors())]
    updates: dict[int, Any] = dict(enumerate(changes))

    def changed(table: Tensor, own: Factors | None, precision: torch.dtype) -> Tensor:
        update = 0 if own is None else (own.b.double() @ own.inner.double()).view_as(table)
        return (table.double() + update).to(dtype if precision is dtype else precision)

    def slow(precision: torch.dtype) -> Tensor:
        outs = []
        for n, slot in enumerate(slots):
            q, k, v = qkv[cu[n] : cu[n + 1]].to(precision).unbind(1)
            places = torch.arange(len(q))
            bucket = bucket_of[(places[:, None] - places).clamp(-reach, reach) + reach]
            own, scores = updates.get(slot, TableUpdate(None, None)), torch.einsum("ihd,jhd->hij", q, k)
            if keys is not None:
                table = changed(keys, own.key, precision)
                scores = scores + torch.einsum("ihd,hdij->hij", q, table[:, :, bucket])
            if queries is not None:
                table = changed(queries, own.query, precision)
                scores = scores + torch.einsum("jhd,hdij->hij", k, table[:, :, bucket])
            outs.append(torch.einsum("hij,jhd->ihd", (scores * scale).softmax(-1), v).flatten(1))
        found = torch.cat(outs)
        return torch.cat((found, found.new_zeros(len(padded) - len(found), found.shape[1])))

    padded = with_spare(qkv)
    spare = len(padded) - total
    of_rows = torch.tensor([*slots, -1]).repeat_interleave(torch.tensor([*lengths, spare])).int()
    distance_tables = DistanceTables(keys, queries, bucket_of)
    return (padded, sequences(cu, spare=spare), scale, distance_tables, AdapterRows(of_rows), updates), slow


def filled(operation: str, backend: str, values: list[Any]) -> Any:
    """Gives the store that a backend makes of the updates by slot, slots that come late included."""
    maker = "lora_store" if operation == "lora_add" else "table_store"
    make = implementation(maker, backend if backend in IMPLEMENTATIONS[maker] else "reference")
    updates = values[3] if operation == "lora_add" else values[5]
    if operation == "lora_add":
        store, nothing = make(BOUNDS, 33, values[1].new_empty(0)), []
    else:
        store, nothing = make(values[3]), None
    with torch.inference_mode():
        for slot, update in sorted(updates.items()):
            store.put(slot, updates[0])
            store.put(slot, nothing)
            store.put(slot, update)
    return store


# Cases of the compiled kernel for GPUs: the store of an adapter has eight slots, most of them empty here.
COMPILED: dict[str, dict[str, Any]] = {
    "ragged, every kind": {"slots": [-1, 0, 1, 2, 7, 8, 1 << 20, 0], "lengths": [1, 17, 63, 35, 3, 9, 5, 66]},
    # prompts that fill a tile or a part of one, or have a row beyond it
    "edges": {"slots": [2, 0, 1, -1, 0], "lengths": [16, 64, 129, 17, 1], "reach": 90},
    "c2p alone": {"slots": [0, 2, 1, -1], "lengths": [7, 20, 2, 16], "without": "p2c"},
    "p2c alone": {"slots": [0, 2, 1, -1], "lengths": [7, 20, 2, 16], "without": "c2p"},
}
CASES: dict[str, Any] = {
    **{
        f"lora add, {name}": ("lora_add", partial(lora_add, **given))
        for name, given in {
            "sorted": {"slots": [-1, 0, 1, 1]},
            "unsorted, many ranks": {"slots": [9, -1, 0, 3], "ranks": (1, 17, 4, 40, 2, 2, 2, 2, 2, 70)},
            "none": {"slots": [-1] * 4},
            "gelu": {"slots": [-1, 0, 0, 1], "activation": "gelu"},
            "slots that the store does not have": {"slots": [40, 0, 1 << 20, 1], "activation": "gelu"},
            "tanh, one slot": {"slots": [0] * 4, "activation": "tanh", "ranks": (8,)},
        }.items()
    },
    **{
        f"adapted attention, {name}": ("adapted_attention", partial(adapted_attention, **given))
        for name, given in {
            "every kind": {"slots": [-1, 0, 1, 2]},
            "far": {"slots": [2, 0, 5, 1], "reach": 90},
            "slots that the store does not have": {"slots": [0, 1 << 15, 9, -1]},
            "c2p alone": {"slots": [0, 0, 1, -1], "without": "p2c"},
        }.items()
    },
}
