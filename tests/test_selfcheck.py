"""`gliclass-fast check` on a small checkpoint of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gliclass_fast.cli.app import app
from tests.families import GLICLASS, GLIZNET
from tests.tiny import backbone_config, byte_tokenizer, reference_model


def run(folder: Path) -> int:
    with pytest.raises(SystemExit) as done:
        app(["check", str(folder), "--device", "cpu"])
    return int(done.value.code or 0)


def save(folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], tokenizer: Any) -> None:
    tokenizer.save_pretrained(folder)
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config))


def save_gliclass(folder: Path, encoder: str, backbone: dict[str, Any], **options: Any) -> None:
    model = reference_model(encoder, backbone, **options)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


@pytest.mark.parametrize("kind", GLICLASS)
@pytest.mark.parametrize("pooling", ["first", "avg"])
def test_gliclass(kind: str, pooling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    architecture, encoder, backbone, options = GLICLASS[kind]
    if kind.startswith("bi-encoder"):
        tower = backbone_config("bert").to_dict()
        options = {"label_model_name": str(tmp_path), "label_model_config": tower, **options}
    save_gliclass(
        tmp_path, encoder, backbone, architecture_type=architecture, pooling_strategy=pooling, **options
    )
    assert run(tmp_path) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    padded = pooling == "avg" and architecture.startswith("bi-encoder")
    assert ("not compared" if padded else "matches the reference") in " ".join(shown.split())


@pytest.mark.parametrize("kind", GLIZNET)
def test_gliznet(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gliclass_fast.models.gliznet.reference import GliZNet
    from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer
    from tests.tiny import enlarge

    tokenizer = GliZNETTokenizer(byte_tokenizer.__wrapped__(lab=True))
    config = backbone_config("bert", {"vocab_size": len(tokenizer)})
    model = GliZNet(config, tokenizer.lab_token_id, GLIZNET[kind])
    enlarge(model)
    tensors = {name: each for name, each in model.state_dict().items() if "pooler" not in name}
    save(tmp_path, tensors, model.config_json(), tokenizer)
    assert run(tmp_path) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "variant" in shown and "matches the reference" in shown


def test_an_adapter_is_shown_and_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gliclass(tmp_path, "bert", {})
    name = "encoder.layer.0.attention.self.query"
    pair = {"lora_A": torch.randn(2, 32), "lora_B": torch.randn(32, 2)}
    tensors = {f"base_model.model.{name}.{side}.weight": tensor for side, tensor in pair.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(options))
    assert run(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "LoRA" in shown and "not compared" in shown
