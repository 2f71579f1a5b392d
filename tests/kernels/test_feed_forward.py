"""A layer that is bound to its weights gives the very numbers of its operations, one after the other."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._extension import extension
from gliclass_fast.ops import ROUNDED, AdapterRows, FeedForward, Ops, Part, choose_ops
from tests.tiny import loaded, reference_model

pytestmark = pytest.mark.usefixtures("memory_used_before")
SETS = extension().instruction_sets()
DEPTH, WIDTH, INNER = 40, 50, 96  # of which only the last fills whole vectors, as gates do
WIDEST = 400
NORM = 0.1 + torch.arange(WIDEST) / WIDTH, torch.arange(WIDEST) / 7  # A layer takes what it is wide.
# The table gives the fields of a layer: which norms it has, and whether it is gated.
KINDS = {
    "post-norm": {"first_norm": NORM, "last_norm": NORM},
    "pre-norm": {"up_norm": "layer", "up_norm_parameters": NORM, "gated": True, "last_norm": (NORM[0], None)},
    "pre-RMSNorm": {"up_norm": "rms", "up_norm_parameters": (NORM[0], None), "gated": True},
    "pre-RMSNorm without gates, normed": {
        "up_norm": "rms", "up_norm_parameters": (NORM[0], None), "last_norm": (NORM[0], None), "rms": True,
    },
}  # fmt: skip
ROWS = 1, 7, 600  # The last are more than a block.


def layer_of(
    ops: Ops,
    kind: str,
    activation: str = "gelu",
    biased: bool = True,
    depth: int = DEPTH,
    width: int = WIDTH,
    inner: int = INNER,
) -> tuple[FeedForward, Tensor]:
    """Returns a layer, and the sums of the map up before it was packed."""
    outputs = 2 * inner if KINDS[kind].get("gated") else inner
    out, up, down = torch.randn(width, depth), torch.randn(outputs, width), torch.randn(width, inner)
    norms = {
        name: tuple(None if part is None else part[:width] for part in parts)
        for name, parts in KINDS[kind].items()
        if name in ("first_norm", "last_norm", "up_norm_parameters")
    }
    biases = [torch.randn(len(weight)) if biased else None for weight in (out, up, down)]
    names = "out_bias", "up_bias", "down_bias"
    layer = FeedForward(
        **dict(zip(("out", "up", "down"), map(ops.pack_linear, (out, up, down)), strict=True)),
        **dict(zip(names, biases, strict=True)),
        depth=depth,
        width=width,
        inner=inner,
        activation=activation,
        eps=1e-5,
        **{**KINDS[kind], **norms},
    )
    return layer, up.sum(1)


def apart(
    ops: Ops,
    layer: FeedForward,
    sums: Tensor,
    x: Tensor,
    attended: Tensor,
    rows: AdapterRows | None = None,
    stores: Sequence[Any] = (None, None, None),
) -> tuple[Tensor, Tensor]:
    """Does one operation after the other."""

    def changed(y: Tensor, given: Tensor, store: Any, activation: str = "none") -> Tensor:
        return y if rows is None or store is None else ops.lora_add(y, given, rows, store, activation)

    if layer.first_norm is None:
        first = changed(ops.linear_add(attended, layer.out, layer.out_bias, x), attended, stores[0])
    else:
        mapped = changed(ops.linear(attended, layer.out, layer.out_bias), attended, stores[0])
        first = ops.add_norm(mapped, x, *layer.first_norm, layer.eps)
    plain, rms = rows is None or stores[1] is None, layer.up_norm == "rms"
    if layer.up_norm is None:
        inner = ops.linear(first, layer.up, layer.up_bias, layer.activation if plain else "none")
        inner = changed(inner, first, stores[1], layer.activation)
    else:
        given = first, layer.up, layer.up_bias, None if rms else sums, layer.eps
        if plain:
            inner = ops.norm_linear(*given, layer.activation, layer.gated)
        else:
            normed = ops.layer_norm(first, *layer.up_norm_parameters, layer.eps, rms)
            activation = "none" if layer.gated else layer.activation
            inner = changed(ops.norm_linear(*given), normed, stores[1], activation)
            if layer.gated:
                value, gate = inner.chunk(2, 1)
                inner = ops.activation(value, layer.activation) * gate
    total = changed(ops.linear_add(inner, layer.down, layer.down_bias, first), inner, stores[2])
    if layer.last_norm is None:
        return total, total
    last = ops.layer_norm(total, *layer.last_norm, layer.eps, layer.rms)
    return (total if layer.first_norm is None else last), last


@pytest.mark.parametrize("rounding", [None, *ROUNDED])
@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_it_is_what_its_operations_are(
    number: int, rounding: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    ops = choose_ops("cpu", rounding=rounding)
    for n, kind in enumerate(KINDS):
        layer, sums = layer_of(ops, kind, ("gelu", "silu", "gelu_tanh", "relu")[n], biased=n % 2 == 0)
        bound = ops.bind_feed_forward(layer)
        assert bound is not None
        for rows in ROWS:
            x, attended = torch.randn(rows, WIDTH), torch.randn(rows, DEPTH)
            found, expected = bound(x, attended), apart(ops, layer, sums, x.clone(), attended)
            assert all(map(torch.equal, found, expected)), (kind, rows)


def adapted(ops: Ops, ranks: dict[int, int], inputs: int, outputs: int) -> Any:
    """Returns the store of a map with updates of these ranks, by slot."""
    store = ops.lora_store((0, outputs), inputs, torch.empty(0))
    for slot, rank in ranks.items():
        store.put(slot, [part_of(rank, inputs, outputs)])
    return store


def part_of(rank: int, inputs: int, outputs: int, start: int = 0) -> Part:
    return Part(start, torch.randn(rank, inputs), torch.randn(outputs, rank) / 10)


def gates_adapted(ops: Ops, width: int, inner: int) -> Any:
    """Returns the store of a map to values and gates: adapters change both, or one of them."""
    store = ops.lora_store((0, inner, 2 * inner), width, torch.empty(0))
    store.put(0, [part_of(3, width, inner), part_of(2, width, inner, inner)])
    store.put(1, [part_of(9, width, inner)])
    store.put(2, [part_of(1, width, inner, inner)])
    return store


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounding", [None, *ROUNDED])
@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_rows_with_adapters(
    number: int, rounding: str | None, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them has what its adapter adds to its maps; some adapters leave some maps as they are."""
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    torch.set_num_threads(2)
    ops = choose_ops("cpu", rounding=rounding)
    layer, sums = layer_of(ops, kind)
    bound = ops.bind_feed_forward(layer)
    assert bound is not None
    out = adapted(ops, {0: 3, 1: 8}, DEPTH, WIDTH)
    up = gates_adapted(ops, WIDTH, INNER) if layer.gated else adapted(ops, {0: 17, 2: 1}, WIDTH, INNER)
    down = adapted(ops, {2: 4}, INNER, WIDTH)
    # Rounded inputs differ in their last bits before that: a step more or less is no fault.
    allowed = 1e-5 if rounding is None else 2e-2
    many_short = ([-1] * 3 + [2] * 5 + [0] * 7 + [1] * 4) * 16
    for slots in (many_short, [-1] * 3 + [2] * 290 + [0] * 5 + [1] * 2):
        rows, count = AdapterRows(torch.tensor(slots, dtype=torch.int32)), len(slots)
        x, attended = torch.randn(count, WIDTH), torch.randn(count, DEPTH)
        expected = apart(ops, layer, sums, x.clone(), attended, rows, (out, up, down))[1]
        found = bound(x, attended, rows, (out, up, down))[1]
        assert (found - expected).abs().max() <= allowed * expected.abs().max()
        without = rows.slots == -1
        assert torch.equal(found[without], bound(x, attended)[1][without])
    assert not torch.allclose(found[3:], bound(x, attended)[1][3:], atol=1e-2)
    alone = bound(x[293:298], attended[293:298], AdapterRows(rows.slots[293:298]), (out, up, down))[1]
    assert torch.equal(alone, found[293:298])
    unchanged = bound(x, attended, rows, (None, None, None))
    assert torch.equal(unchanged[1], bound(x, attended)[1])
    with pytest.raises(ValueError, match="for 299 rows, got 300"):
        bound(x[:299], attended[:299], rows, (out, up, down))


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("rounding", [None, *ROUNDED])
def test_threads_change_nothing(rounding: str | None) -> None:
    """Threads that share every map, those that take two blocks of rows each, and those that take more."""
    ops = choose_ops("cpu", rounding=rounding)
    layer, _ = layer_of(ops, "post-norm")
    bound = ops.bind_feed_forward(layer)
    assert bound is not None
    x, attended = torch.randn(650, WIDTH), torch.randn(650, DEPTH)
    outs = []
    for threads in (1, 2, 3, 5, 7, 11):
        torch.set_num_threads(threads)
        outs.append([bound(x[:rows], attended[:rows])[1] for rows in (63, 129, 350, 650)])
    for several in zip(*outs, strict=True):
        assert all(torch.equal(several[0], other) for other in several[1:])
    assert torch.equal(outs[0][0], outs[0][-1][:63])


def test_an_update_of_another_width_raises() -> None:
    ops = choose_ops("cpu")
    layer, _ = layer_of(ops, "pre-norm")
    bound = ops.bind_feed_forward(layer)
    assert bound is not None
    rows, store = AdapterRows(torch.zeros(2, dtype=torch.int32)), adapted(ops, {0: 2}, WIDTH, INNER)
    with pytest.raises(ValueError, match=rf"needs torch.float32 \[{2 * INNER}, 2\], got"):
        bound(torch.randn(2, WIDTH), torch.randn(2, DEPTH), rows, (None, store, None))


@pytest.mark.parametrize("settings", [{}, {"quantization": "int8"}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("encoder", ["deberta-v2", "bert", "modernbert", "t5", "llama"])
def test_the_layers_of_a_loaded_model_are_bound(encoder: str, settings: dict[str, Any]) -> None:
    model = loaded(reference_model(encoder), **settings)
    layers = [each for each in model.loaded.network.modules() if hasattr(each, "bound")]
    assert layers and all(each.bound is not None for each in layers)


def test_rows_may_be_strided_and_none_may_be_there() -> None:
    ops = choose_ops("cpu")
    layer, _ = layer_of(ops, "pre-norm")
    bound = ops.bind_feed_forward(layer)
    assert bound is not None
    x, attended = torch.randn(9, 2 * WIDTH)[:, ::2], torch.randn(DEPTH, 9).T
    assert all(map(torch.equal, bound(x, attended), bound(x.contiguous(), attended.contiguous())))
    assert [each.shape for each in bound(x[:0], attended[:0])] == [(0, WIDTH)] * 2


def test_weights_whose_memory_moves_or_is_copied() -> None:
    """The kernel reads the weights where they are now, and never memory that they had before."""
    ops = choose_ops("cpu")
    layer, sums = layer_of(ops, "post-norm")
    bound = ops.bind_feed_forward(layer)
    assert bound is not None
    x, attended = torch.randn(5, WIDTH), torch.randn(5, DEPTH)
    before = bound(x, attended)[1]
    for copied in (copy.deepcopy(bound), pickle.loads(pickle.dumps(bound))):
        assert torch.equal(copied(x, attended)[1], before)
    layer.up.share_memory_()
    assert torch.equal(bound(x, attended)[1], before)
    layer.up.data = layer.up * 2
    assert torch.equal(bound(x, attended)[1], apart(ops, layer, sums, x, attended)[1])
    layer.up.data = layer.up.half()
    with pytest.raises(ValueError, match="float16"):
        bound(x, attended)


def test_what_a_backend_has_in_no_one_call_is_left_to_the_layer() -> None:
    ops = choose_ops("cpu")
    layer, _ = layer_of(ops, "pre-RMSNorm")
    assert ops.bind_feed_forward(replace(layer, activation="tanh")) is None
    narrow = replace(layer, inner=INNER - 1, up=torch.randn(2 * INNER - 2, WIDTH), up_bias=None)
    assert ops.bind_feed_forward(replace(narrow, down=torch.randn(WIDTH, INNER - 1))) is None
    for backend in ("onednn", "reference"):
        assert choose_ops("cpu", only=backend).bind_feed_forward(layer) is None


def test_what_the_kernel_cannot_read_raises() -> None:
    ops = choose_ops("cpu")
    layer, _ = layer_of(ops, "post-norm")
    for wrong, reason in (
        ({"depth": DEPTH + 1}, "needs torch.float32 .50, 41., got"),
        ({"down": layer.down.double()}, "got torch.float64"),
        ({"up_bias": torch.zeros(3)}, "needs torch.float32 .96., got torch.float32 .3."),
        ({"last_norm": (torch.ones(WIDTH + 1), None)}, "needs torch.float32 .50., got"),
    ):
        with pytest.raises(ValueError, match=reason):
            ops.bind_feed_forward(replace(layer, **wrong))
    with pytest.raises(ValueError, match=r"needs torch\.uint8"):
        choose_ops("cpu", rounding="int8").bind_feed_forward(layer)
    bound = ops.bind_feed_forward(layer)
    assert bound is not None
    for x, attended in (
        (torch.zeros(3, WIDTH), torch.zeros(2, DEPTH)),
        (torch.zeros(3, WIDTH - 1), torch.zeros(3, DEPTH)),
        (torch.zeros(3, WIDTH, dtype=torch.float64), torch.zeros(3, DEPTH)),
    ):
        with pytest.raises(ValueError, match=r"needs torch\.float32"):
            bound(x, attended)
