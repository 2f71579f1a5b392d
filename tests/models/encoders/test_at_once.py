"""On a CPU, the layers of few rows run in one call, with the result of one layer after the other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast import GLiClassModel
from gliclass_fast.kernels.compiled_self_attention import BoundHalf
from gliclass_fast.kernels.compiled_whole_layers import bind_layers_cpp
from gliclass_fast.models.encoders import Encoder
from gliclass_fast.ops import AdapterRows, choose_ops
from tests.models.encoders.test_states import packed
from tests.tiny import ENCODERS, MORE_ENCODERS, VOCABULARY, reference_model

NAMES = (*ENCODERS, *MORE_ENCODERS)
SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "int8": {"quantization": "int8"},
}
BATCH = packed([torch.randint(4, VOCABULARY, (length,)) for length in (3, 40, 21)])


def backbone_of(name: str, **settings: Any) -> Encoder:
    model = GLiClassModel.from_gliclass(reference_model(name), device="cpu", **settings)
    backbone = model.loaded.network.backbone
    assert isinstance(backbone, Encoder)
    return backbone


def one_by_one(backbone: Encoder) -> list[Tensor]:
    return [state.clone() for state in backbone.hidden_states(BATCH)]


@torch.inference_mode()
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_what_one_layer_after_the_other_gives(name: str, setting: str) -> None:
    backbone = backbone_of(name, **SETTINGS[setting])
    assert backbone.at_once(1, BATCH) is not None
    for number, expected in enumerate(one_by_one(backbone)):
        assert torch.equal(backbone.state(number, BATCH), expected)
    assert torch.equal(backbone.last_state(BATCH), expected)
    assert torch.equal(backbone.last_feed_forward(*backbone.last_attention(BATCH)), expected)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["bert", "modernbert", "t5"])
def test_weights_may_get_other_memory(name: str) -> None:
    backbone = backbone_of(name)
    before = backbone.last_state(BATCH)
    for each in backbone.layers.parameters():
        each.data = each.data * 1.5
    expected = one_by_one(backbone)[-1]
    assert torch.equal(backbone.last_state(BATCH), expected) and not torch.allclose(before, expected)


@torch.inference_mode()
def test_many_rows_and_adapters_run_one_layer_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of("modernbert")
    expected = backbone.last_state(BATCH)
    monkeypatch.setattr(Encoder, "AT_ONCE", len(expected) - 1)
    assert backbone.at_once(1, BATCH) is None and torch.equal(backbone.last_state(BATCH), expected)
    monkeypatch.setattr(Encoder, "AT_ONCE", len(expected))
    assert backbone.at_once(1, BATCH) is not None
    adapted = SimpleNamespace(token_ids=BATCH.token_ids, adapter_rows=AdapterRows(torch.zeros(len(expected))))
    assert backbone.at_once(1, adapted) is None


def test_other_backends_and_unlike_layers_have_no_such_call() -> None:
    assert backbone_of("bert", backend="reference").bound_layers is None
    halves = [
        (layer.bound_attention, layer.bound)
        for name in ("bert", "modernbert")
        for layer in backbone_of(name).layers
    ]
    (attention, feed_forward), *_ = halves
    assert choose_ops("cpu").bind_layers(halves[:1]) is not None
    layer = attention.layer
    wide = replace(  # It gives more than the other half reads.
        layer,
        heads=2 * layer.heads,
        key_heads=2 * layer.heads,
        qkv=layer.qkv.repeat(2, 1),
        qkv_bias=layer.qkv_bias.repeat(2),
    )
    for unlike in (halves, [(attention, object())], [(BoundHalf(wide), feed_forward)]):
        assert bind_layers_cpp(unlike) is None
    convolved = reference_model("deberta-v2", {"conv_kernel_size": 3})
    network = GLiClassModel.from_gliclass(convolved, device="cpu").loaded.network
    assert network.backbone.bound_layers is None


@torch.inference_mode()
def test_what_the_kernel_cannot_read_raises() -> None:
    backbone = backbone_of("modernbert")
    run, x = backbone.bound_layers, one_by_one(backbone)[0]
    assert run is not None and run(x, x, BATCH.sequences, []) == (x, x)
    rotary = torch.zeros(64, 3), torch.zeros(64, 3)
    for wrong, reason in (
        ((x.double(), x, BATCH.sequences, [None]), "got torch.float64"),
        ((x, x[:, 1:], BATCH.sequences, [None]), r"needs torch.float32 \["),
        ((x, x, BATCH.sequences, [rotary]), "rotary tables must be in float32"),
        ((x, x, BATCH.sequences, [None] * 99), "layers, and 99 are to run"),
    ):
        with pytest.raises(ValueError, match=reason):
            run(*wrong)
