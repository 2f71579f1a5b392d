"""A model is built whole before it replaces the one that was there; one rule says what a device is."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.runtime import loaded
from gliclass_fast.runtime.device import resolve_device

CPU = torch.device("cpu")


def scores(model: GLiClassModel) -> list[float]:
    pipeline = ZeroShotClassificationPipeline(model, demo.PATH, device=model.device, progress_bar=False)
    return [each["score"] for each in pipeline("The match went on.", ["sports", "music"], threshold=0.0)[0]]


@pytest.mark.parametrize("target", [torch.float64, "cuda:0", "mps"])
def test_a_move_that_fails_changes_nothing(target: Any) -> None:
    if target == "cuda:0" and torch.cuda.is_available():
        target = "xpu"
    model = GLiClassModel.from_pretrained(demo.PATH, device="cpu")
    before, network = scores(model), model.loaded
    with pytest.raises(ValueError, match=r"not supported|sees no GPU"):
        model.to(target)
    assert model.loaded is network and scores(model) == before
    copy = pickle.loads(pickle.dumps(model))
    assert scores(copy) == before and copy.dtype is torch.float32


def test_a_network_that_cannot_be_built_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = GLiClassModel.from_pretrained(demo.PATH, device="cpu")
    before = scores(model)

    def failing(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room for weights")

    with monkeypatch.context() as patch:
        patch.setattr(loaded, "LoadedNetwork", failing)
        with pytest.raises(torch.OutOfMemoryError):
            model.to(torch.bfloat16)
    assert model.dtype is torch.float32 and scores(model) == before
    assert model.to(torch.bfloat16).dtype is torch.bfloat16


def test_the_older_name_of_quantization_warns() -> None:
    with pytest.warns(DeprecationWarning, match="quantization="):
        old = GLiClassModel.from_pretrained(demo.PATH, device="cpu", precision="int8")
    assert scores(old) == scores(GLiClassModel.from_pretrained(demo.PATH, device="cpu", quantization="int8"))


@pytest.mark.parametrize("device", ["mps", "no such thing", 0, "cuda", "cuda:1"])
def test_the_cpu_stands_in_with_a_warning(device: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(device, fall_back=True) == CPU
    assert len(caplog.messages) == 1 and f"device {device!r}" in caplog.text and "on the CPU" in caplog.text


@pytest.mark.parametrize("device", ["cpu", "cpu:0", CPU, -1, None])
def test_the_cpu_that_is_meant_gives_no_warning(device: Any, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device(device, fall_back=True) == CPU
    assert not caplog.messages


@pytest.mark.parametrize("device", ["mps", "no such thing", 0, "cuda", torch.device("cuda", 0), 1.5])
def test_a_device_means_what_it_says(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"supported|sees no GPU"):
        resolve_device(device)


def test_a_pipeline_takes_a_number(tmp_path: Path) -> None:
    for device in (-1, None) if torch.cuda.is_available() else (0, -1, None):
        pipeline = ZeroShotClassificationPipeline(demo.PATH, device=device, progress_bar=False)
        assert pipeline.device.type == ("cuda" if torch.cuda.is_available() and device is None else "cpu")
