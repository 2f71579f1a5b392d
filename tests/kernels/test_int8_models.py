"""A quantised model keeps its decisions, and is quantised where it shall be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.kernels import _extension
from gliclass_fast.ops import choose_ops, unavailable_reason
from tests.tiny import ENCODERS, fast_pipeline, reference_model


@pytest.mark.parametrize("encoder", ENCODERS)
def test_only_the_encoder_is_quantised(encoder: str) -> None:
    reference = reference_model(encoder, scorer_type="mlp")
    model = GLiClassModel.from_gliclass(reference, device="cpu", quantization="int8")
    linears = [each for each in model.loaded.network.modules() if isinstance(each, torch.nn.Linear)]
    quantised = {id(each) for each in linears if each.weight.dtype is torch.uint8}
    of_encoder = {
        id(each) for each in model.loaded.network.backbone.modules() if isinstance(each, torch.nn.Linear)
    }
    assert quantised == of_encoder and len(quantised) < len(linears)
    plain = fast_pipeline(reference).get_embeddings("a text", ["a", "b"])[0]["logits"]
    found = fast_pipeline(model).get_embeddings("a text", ["a", "b"])[0]["logits"]
    assert np.isfinite(found).all() and not np.array_equal(found, plain)


def test_the_demo_checkpoint_decides_as_in_float32() -> None:
    texts = [
        "A NASA rover has found organic molecules in a Martian crater.",
        "The central bank raised interest rates to slow inflation.",
        "Add this song to my workout playlist, please.",
    ]
    labels = ["space exploration", "banking and finance", "music", "cooking"]
    scores = []
    for precision in (None, "int8"):
        model = GLiClassModel.from_pretrained(demo.PATH, device="cpu", quantization=precision)
        pipeline = ZeroShotClassificationPipeline(model, demo.PATH, device="cpu", progress_bar=False)
        scores.append([[each["score"] for each in row] for row in pipeline(texts, labels, threshold=0.0)])
    plain, rounded = map(np.array, scores)
    assert ((plain >= 0.5) == (rounded >= 0.5)).all()


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable_reason("int8", "cuda") == "int8 runs on CPUs"
    assert "computes in float32 only" in str(unavailable_reason("int8", "cpu", torch.bfloat16))
    with pytest.raises(ValueError, match="asked for as quantization='int8'"):
        GLiClassModel.from_pretrained(demo.PATH, device="cpu", backend="int8")
    for backend in ("bfloat16", "cpp_bfloat16"):
        with pytest.raises(ValueError, match="asked for as dtype='bfloat16'"):
            GLiClassModel.from_pretrained(demo.PATH, device="cpu", backend=backend)
    with pytest.raises(ValueError, match="quantization 'int4' is not supported"):
        GLiClassModel.from_pretrained(demo.PATH, device="cpu", quantization="int4")
    linear = ("pack_linear", "linear", "linear_add", "norm_linear")
    assert {choose_ops("cpu", rounding="int8").chosen[name] for name in linear} == {"int8"}
    monkeypatch.setattr(_extension, "compiled", None)
    monkeypatch.setattr(_extension, "import_error", ImportError("no such module"))
    assert {choose_ops("cpu", rounding="int8").chosen[name] for name in linear} == {"int8_reference"}
