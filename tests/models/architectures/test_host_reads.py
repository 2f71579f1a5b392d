"""Nothing between a batch and its logits asks for a value, as tensors without values show.

Operations whose reference reads values on the host, as no Triton kernel does, give their shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException

from gliclass_fast import GLiClassModel, ops
from gliclass_fast.batch import Capacity, PackedBatch
from tests import families
from tests.tiny import ALL_SCORERS, ENCODERS, VECTOR_POOLINGS, random_prompt, reference_model

OPTIONS: list[dict[str, Any]] = [
    *({"scorer_type": scorer, "extract_text_features": True} for scorer in ALL_SCORERS),
    *({"pooling_strategy": pooling} for pooling in VECTOR_POOLINGS),
    {"class_token_pooling": "average"},
    {"squeeze_layers": True},
    {"use_calibrator": True, "normalize_features": True},
    {"encoder_layer_id": 1, "use_segment_embeddings": True},
]
# the first backbone has every option; what the others give is read by the same code
OF_BACKBONES = [{"scorer_type": "mlp"}, {"squeeze_layers": True}, {"encoder_layer_id": 1}]
BACKBONES = [*((name, {}) for name in ENCODERS), ("deberta-v2", {"conv_kernel_size": 3})]
RUNS = [(*each, OF_BACKBONES if number else OPTIONS) for number, each in enumerate(BACKBONES)]


def shape(first: Tensor, *_: Any, **__: Any) -> Tensor:
    """Gives the shape of attention over [T, 3, H, D] or [L, H, D], or of a softmax over [L]."""
    return first.new_empty(first.shape[0], first.shape[-2] * first.shape[-1]) if first.dim() > 1 else first


def without_values(model: GLiClassModel, run: Callable[[PackedBatch], Any]) -> Any:
    batch = model.loaded.pack([random_prompt(20, 3)], Capacity.padded(64, prompts=16, labels=16, tiles=64))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        block = mode.from_tensor(batch.block)
        return run(batch.on(block))


def logits_of_nothing(encoder: str, backbone: dict[str, Any], options: dict[str, Any]) -> Tensor:
    model = GLiClassModel.from_gliclass(reference_model(encoder, backbone, **options), device="cpu")
    logits: Tensor = without_values(model, model.loaded).logits
    return logits


@pytest.fixture(autouse=True)
def operations_without_values(monkeypatch: pytest.MonkeyPatch) -> None:
    choose = ops.choose_ops

    def chosen(*_: Any) -> ops.Ops:
        stubs = dict.fromkeys(ops.READS_ON_HOST, shape)
        return replace(choose("cpu", only="reference"), **stubs)

    monkeypatch.setattr("gliclass_fast.runtime.loaded.choose_ops", chosen)


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "backbone", "every"), RUNS)
def test_no_configuration_reads_a_value(
    encoder: str, backbone: dict[str, Any], every: list[dict[str, Any]]
) -> None:
    for options in every:
        logits = logits_of_nothing(encoder, backbone, options)
        assert logits.shape == (16,), options


@pytest.mark.parametrize(
    "kind", ["bi-encoder", "decoder-kv", "encoder-decoder, BART", "encoder-decoder, umT5"]
)
def test_no_encoder_that_is_recorded_alone_reads_a_value(kind: str) -> None:
    model = families.pipeline(kind).model
    assert all(state.shape[0] == 64 for state in without_values(model, model.loaded.network.encode))


def test_the_lstm_does_and_says_so() -> None:
    with pytest.raises(DataDependentOutputException):
        logits_of_nothing("bert", {}, {"use_lstm": True})
    model = GLiClassModel.from_gliclass(reference_model("bert", use_lstm=True), device="cpu")
    assert not model.loaded.network.score_recordable
    assert without_values(model, model.loaded.network.encode)[0].shape[0] == 64
    assert torch.is_tensor(model.loaded(model.loaded.pack([random_prompt(20, 3)])).logits)
