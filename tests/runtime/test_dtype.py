"""A model runs in the dtype that is asked for, or that holds its values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gliclass_fast import GLiClassModel
from gliclass_fast.models.configuration import read_config
from gliclass_fast.runtime import loaded
from gliclass_fast.runtime.dtype import dtype_candidates
from tests.tiny import ENCODERS, reference_model

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SIXTEEN_BIT = [torch.float16, torch.bfloat16]


def candidates(asked: Any, device: torch.device, reference: Any) -> list[torch.dtype]:
    config = read_config(reference.config.to_dict())
    return dtype_candidates(asked, device, config, reference.state_dict())


def test_what_is_asked_for_is_taken() -> None:
    reference = reference_model()
    for device in (CPU, GPU):
        assert candidates("bfloat16", device, reference) == [torch.bfloat16]
        assert candidates(torch.float32, device, reference) == [torch.float32]
        for name, dtype in (("half", torch.float16), ("torch.bfloat16", torch.bfloat16)):  # as transformers
            assert candidates(name, device, reference) == [dtype]
    for wrong in ("float8", "nn", "double", ""):
        with pytest.raises(
            ValueError, match=f"dtype '{wrong}' is not supported; supported: float32, float16, bfloat"
        ):
            candidates(wrong, CPU, reference)


def test_defaults() -> None:
    for encoder in ENCODERS:
        expected = SIXTEEN_BIT if encoder != "t5" else [torch.bfloat16]
        assert candidates(None, GPU, reference_model(encoder)) == expected
        assert candidates(None, CPU, reference_model(encoder)) == [torch.float32]
    for large in (reference_model(backbone={"vocab_size": 250_105}), reference_model("llama")):
        assert candidates(None, GPU, large) == [torch.bfloat16]
    low = reference_model().bfloat16()
    assert candidates("auto", GPU, low) == [torch.bfloat16]
    low.config.dtype = "auto"  # in config.json it says no more than a call does
    assert candidates("auto", GPU, low) == [torch.bfloat16]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_model_that_overflows_float16_runs_in_bfloat16(
    encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The GPU's candidates are tried on a CPU, as is and with one layer that leaves float16's range."""
    monkeypatch.setattr(loaded, "dtype_candidates", lambda *_: SIXTEEN_BIT)
    reference = reference_model(encoder, extract_text_features=True)
    folder = [reference.config.to_dict(), reference.state_dict]
    assert GLiClassModel(folder[0], folder[1], "a model", device="cpu").dtype is torch.float16
    others = {"modernbert": "layers.1.mlp.Wi", "t5": "encoder.block.0.layer.1.DenseReluDense.wi_0"}
    name = others.get(encoder, "encoder.layer.0.intermediate.dense")
    layer = reference.model.encoder_model.get_submodule(name)
    with torch.no_grad():
        layer.weight *= 1e6
    large = GLiClassModel(folder[0], folder[1], "a model", device="cpu")
    assert large.dtype is torch.bfloat16
