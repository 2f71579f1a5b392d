"""A bound attention half gives the very numbers of its operations, one after the other."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast import ops as table
from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._extension import extension
from gliclass_fast.kernels.compiled_distances import PackedTables
from gliclass_fast.ops import ROUNDED, DistanceTables, Ops, Positions, SelfAttention, Sequences, choose_ops
from tests.kernels.layouts import HEADS, LENGTHS, WIDTH, cumulative, sequences
from tests.tiny import loaded, reference_model

pytestmark = pytest.mark.usefixtures("memory_used_before")
SETS = extension().instruction_sets()
DEPTH, REACH, TOTAL = 50, 20, sum(LENGTHS)
BIAS = torch.arange(HEADS * (2 * REACH + 1)).view(HEADS, -1) / 50
ANGLES = torch.arange(max(LENGTHS) * WIDTH // 2).view(-1, WIDTH // 2) / 30
ROTARY = ANGLES.cos(), ANGLES.sin()
# The table gives the fields of a layer, and the rotary tables of its calls.
KINDS: dict[str, tuple[dict[str, Any], tuple[Tensor, Tensor] | None]] = {
    "plain": ({}, None),
    "turned, near keys alone": ({"window": 30}, ROTARY),
    "behind an RMSNorm, with a bias": ({"norm": "rms", "distance_bias": BIAS}, None),
    "behind a LayerNorm, turned": ({"norm": "layer", "eps": 1e-5}, ROTARY),
    "shared keys": ({"norm": "rms", "heads": 2 * HEADS}, ROTARY),
    "disentangled": ({"tables": 2}, None),
    "content-to-position": ({"tables": 1}, None),
}


def layer_of(ops: Ops, kind: str, biased: bool = True) -> tuple[SelfAttention, Tensor]:
    """Returns a layer, and the sums of its map before it was packed."""
    fields = dict(KINDS[kind][0])
    heads = fields.pop("heads", HEADS)
    outputs = (heads + 2 * HEADS) * WIDTH
    weight = torch.randn(outputs, DEPTH) / 10
    if terms := fields.pop("tables", 0):
        buckets = (torch.arange(2 * REACH + 1) + 1) // 2
        key, query = (torch.randn(HEADS, WIDTH, REACH + 2) for _ in range(2))
        tables = DistanceTables(key, query if terms == 2 else None, buckets)
        fields["tables"] = ops.pack_distances(tables)
    layer = SelfAttention(
        qkv=ops.pack_linear(weight),
        qkv_bias=torch.randn(outputs) if biased else None,
        depth=DEPTH,
        heads=heads,
        key_heads=HEADS,
        width=WIDTH,
        scale=WIDTH**-0.5,
        **fields,
    )
    return layer, weight.sum(1)


def apart(
    ops: Ops, layer: SelfAttention, sums: Tensor, x: Tensor, seen: Sequences, rotary: Any = None
) -> Tensor:
    """Does one operation after the other."""
    if layer.norm is None:
        mapped = ops.linear(x, layer.qkv, layer.qkv_bias)
    else:
        given = None if layer.norm == "rms" else sums
        mapped = ops.norm_linear(x, layer.qkv, layer.qkv_bias, given, layer.eps)
    rows = mapped.view(len(x), -1, layer.width)
    group = layer.heads // layer.key_heads
    q, k, v = rows.split((layer.heads, layer.key_heads, layer.key_heads), 1)
    qkv = torch.stack((q, *(each.repeat_interleave(group, 1) for each in (k, v))), 1)
    if layer.tables is not None:
        return ops.disentangled_attention(qkv, seen, layer.scale, layer.tables)
    return ops.attention(qkv, seen, layer.scale, Positions(rotary, layer.window, layer.distance_bias))


@pytest.mark.parametrize("rounding", [None, *ROUNDED])
@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_it_is_what_its_operations_are(
    number: int, rounding: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    ops = choose_ops("cpu", rounding=rounding)
    for n, (kind, (_, rotary)) in enumerate(KINDS.items()):
        layer, sums = layer_of(ops, kind, biased=n % 2 == 0)
        bound = ops.bind_self_attention(layer)
        assert bound is not None
        for lengths in (LENGTHS, LENGTHS[:1], LENGTHS[1:2]):
            seen, x = sequences(cumulative(lengths)), torch.randn(sum(lengths), DEPTH)
            found, expected = bound(x, seen, rotary), apart(ops, layer, sums, x, seen, rotary)
            assert torch.equal(found, expected), (kind, lengths)


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("rounding", [None, *ROUNDED])
def test_threads_change_nothing(rounding: str | None) -> None:
    ops = choose_ops("cpu", rounding=rounding)
    bound = ops.bind_self_attention(layer_of(ops, "shared keys")[0])
    assert bound is not None
    x, seen, outs = torch.randn(TOTAL, DEPTH), sequences(cumulative(LENGTHS)), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        outs.append(bound(x, seen, ROTARY))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


@pytest.mark.parametrize("settings", [{}, {"quantization": "int8"}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("encoder", ["deberta-v2", "deberta", "bert", "modernbert", "t5", "llama"])
def test_the_layers_of_a_loaded_model_are_bound(encoder: str, settings: dict[str, Any]) -> None:
    model = loaded(reference_model(encoder), **settings)
    layers = [each for each in model.loaded.network.modules() if hasattr(each, "bound_attention")]
    assert layers
    assert all(each.bound_attention is not None for each in layers)


def test_rows_may_be_strided() -> None:
    ops = choose_ops("cpu")
    bound = ops.bind_self_attention(layer_of(ops, "plain")[0])
    assert bound is not None
    x, seen = torch.randn(TOTAL, 2 * DEPTH)[:, ::2], sequences(cumulative(LENGTHS))
    assert torch.equal(bound(x, seen), bound(x.contiguous(), seen))


@pytest.mark.parametrize("rounding", [None, *ROUNDED])
def test_weights_whose_memory_moves_or_is_copied(rounding: str | None) -> None:
    """The kernel reads the weights where they are now, and never memory that they had before."""
    ops = choose_ops("cpu", rounding=rounding)
    layer, sums = layer_of(ops, "disentangled")
    bound = ops.bind_self_attention(layer)
    assert bound is not None
    x, seen = torch.randn(TOTAL, DEPTH), sequences(cumulative(LENGTHS))
    before = bound(x, seen)
    for copied in (copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
        assert torch.equal(copied(x, seen), before)
    assert isinstance(layer.tables, PackedTables)
    assert layer.tables.key_table is not None
    layer.tables.key_columns.data = layer.tables.key_columns.clone()
    for moved in (layer.qkv, layer.qkv_bias, layer.tables.key_table):
        assert moved is not None
        moved.share_memory_()
        layer.tables.query_columns.share_memory_()
        assert torch.equal(bound(x, seen), before)
        moved.data = moved.clone() if moved.dtype is torch.uint8 else moved * 2
        assert torch.equal(bound(x, seen), apart(ops, layer, sums, x, seen))
        before = bound(x, seen)
    layer.tables.key_table.data = layer.tables.key_table.half()
    with pytest.raises(ValueError, match="float16"):
        bound(x, seen)


def test_backends_that_have_it_in_no_one_call_leave_it_to_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, _ = layer_of(choose_ops("cpu"), "plain")
    for backend in ("onednn", "reference"):
        assert choose_ops("cpu", only=backend).bind_self_attention(layer) is None
    monkeypatch.setattr(table, "attention_is_faster_in_bfloat16", lambda: False)
    mixed = choose_ops("cpu", only="reference", rounding="int8")
    assert mixed.chosen["bind_self_attention"] == "reference"


def test_what_the_kernel_cannot_read_raises() -> None:
    ops = choose_ops("cpu")
    layer, _ = layer_of(ops, "plain")
    narrow = DistanceTables(torch.randn(HEADS, 2, WIDTH, 2), None, torch.zeros(3))
    for wrong, reason in (
        ({"depth": DEPTH + 1}, rf"needs torch.float32 \[{len(layer.qkv)}, {DEPTH + 1}\], got"),
        ({"heads": 5, "key_heads": 2, "width": 16}, "2 heads of keys cannot serve 5"),
        ({"qkv": layer.qkv.double()}, "got torch.float64"),
        ({"distance_bias": BIAS[:1]}, rf"needs torch.float32 \[{HEADS}, "),
        ({"tables": narrow}, "as `pack_distances_cpp` returned them"),
    ):
        with pytest.raises(ValueError, match=reason):
            ops.bind_self_attention(replace(layer, **wrong))
    bound = ops.bind_self_attention(layer)
    assert bound is not None
    x, seen = torch.randn(TOTAL, DEPTH), sequences(cumulative(LENGTHS))
    with pytest.raises(ValueError, match=r"needs torch\.float32"):
        bound(x[:, 1:], seen)
    with pytest.raises(ValueError, match="rotary tables"):
        bound(x, seen, (ROTARY[0], ROTARY[1][:, 1:]))
    with pytest.raises(ValueError, match="int32 work list"):
        bound(x, replace(seen, tiles=seen.tiles.long()))
    other = seen.tiles.clone()
    other[0, 1] = 64
    with pytest.raises(ValueError, match="work list of 128 rows"):
        bound(x, replace(seen, tiles=other))
