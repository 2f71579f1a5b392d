"""On a CPU, bfloat16 is for products of the backbone, and "auto" takes it where it is measured as faster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.kernels import _extension
from gliclass_fast.runtime import dtype
from tests.tiny import fast_pipeline, reference_model

TEXTS = [
    "A NASA rover has found organic molecules in a Martian crater.",
    "The central bank raised interest rates to slow inflation.",
    "Add this song to my workout playlist, please.",
]
LABELS = ["space exploration", "banking and finance", "music", "cooking"]


def logits(**settings: Any) -> tuple[GLiClassModel, np.ndarray]:
    model = GLiClassModel.from_pretrained(demo.PATH, device="cpu", **settings)
    pipeline = ZeroShotClassificationPipeline(model, demo.PATH, device="cpu", progress_bar=False)
    return model, np.stack([each["logits"] for each in pipeline.get_embeddings(TEXTS, LABELS)])


@pytest.mark.parametrize("faster", [False, True])
def test_auto_follows_the_measurement(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(dtype, "linear_is_faster_in_bfloat16", lambda *sizes: asked.append(sizes) or faster)
    model, found = logits(dtype="auto")
    config = model.loaded.config.backbone_config
    assert asked == [(config.hidden_size, config.intermediate_size)]
    assert model.dtype is (torch.bfloat16 if faster else torch.float32)
    _, exact = logits()
    assert np.array_equal(found, exact) is not faster
    assert ((found > 0) == (exact > 0)).all()
    for chosen in ({"quantization": "int8"}, {"backend": "reference"}):
        assert logits(dtype="auto", **chosen)[0].dtype is torch.float32
    assert len(asked) == 1 and logits()[0].dtype is torch.float32


def test_only_the_backbone_rounds() -> None:
    model, found = logits(dtype="bfloat16")
    linears = [each for each in model.loaded.network.modules() if isinstance(each, torch.nn.Linear)]
    rounded = {id(each) for each in linears if each.weight.dtype is torch.uint8}
    of_backbone = model.loaded.network.backbone.modules()
    assert rounded == {id(each) for each in of_backbone if isinstance(each, torch.nn.Linear)}
    others = [each for each in model.loaded.network.parameters() if each.dtype is not torch.uint8]
    assert others and all(each.dtype is torch.float32 for each in others)
    _, exact = logits()
    _, all_of_it = logits(dtype="bfloat16", backend="reference")
    assert 0 < abs(found - exact).max() < abs(all_of_it - exact).max()
    inputs = ZeroShotClassificationPipeline(model, demo.PATH, device="cpu").prepare_inputs(TEXTS, LABELS)
    assert model(**inputs).logits.dtype is torch.bfloat16


def test_without_compiled_kernels_torch_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "compiled", None)
    model, found = logits(dtype="bfloat16")
    assert model.loaded.computes_in is model.dtype is torch.bfloat16
    assert np.array_equal(found, logits(dtype="bfloat16", backend="reference")[1])
    assert logits(dtype="auto")[0].dtype is torch.float32


def test_what_is_saved_does_not_depend_on_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "linear_is_faster_in_bfloat16", lambda *sizes: True)
    kept = {tensor.dtype for tensor in logits(dtype="auto")[0].state_dict().values()}
    assert kept == {tensor.dtype for tensor in logits()[0].state_dict().values()} == {torch.float16}
    asked = {tensor.dtype for tensor in logits(dtype="bfloat16")[0].state_dict().values()}
    assert asked == {torch.bfloat16}


def test_values_beyond_float16_stay_finite() -> None:
    model = reference_model("bert")
    with torch.no_grad():
        model.model.encoder_model.get_submodule("encoder.layer.0.intermediate.dense").weight.mul_(1e8)
    [found] = fast_pipeline(GLiClassModel.from_gliclass(model, torch.bfloat16)).get_embeddings("a", ["b"])
    [exact] = fast_pipeline(GLiClassModel.from_gliclass(model)).get_embeddings("a", ["b"])
    assert np.allclose(found["logits"], exact["logits"], rtol=0.1, atol=0.1)
