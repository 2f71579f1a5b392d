"""`gliclass-fast check` passes on a small checkpoint of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gliclass_fast.cli.app import app
from tests.families import GLICLASS, GLIZNET, reference
from tests.tiny import byte_tokenizer, reference_model, tokenizer_of


def run(folder: Path) -> int:
    with pytest.raises(SystemExit) as done:
        app(["check", str(folder), "--device", "cpu"])
    return int(done.value.code or 0)


def save_gliclass(folder: Path, model: Any) -> None:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GLICLASS)
@pytest.mark.parametrize("pooling", ["first", "avg"])
def test_gliclass(kind: str, pooling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gliclass(tmp_path, reference(kind, pooling_strategy=pooling))
    assert run(tmp_path) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    padded = pooling == "avg" and kind.startswith("bi-encoder")
    assert ("not compared" if padded else "matches the reference") in " ".join(shown.split())


def test_words_of_the_encoder_and_the_decoder_may_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reference("encoder-decoder-cls, T5")
    words = model.model.encoder_decoder_model.decoder.embed_tokens
    words.weight = torch.nn.Parameter(torch.randn_like(words.weight))
    save_gliclass(tmp_path, model)
    assert run(tmp_path) == 0, capsys.readouterr().out


@pytest.mark.parametrize("kind", GLIZNET)
def test_gliznet(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = reference(kind)
    tensors = {name: each.contiguous() for name, each in model.state_dict().items() if "pooler" not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(model.config_json()))
    tokenizer_of(model).save_pretrained(tmp_path)
    assert run(tmp_path) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "variant" in shown and "matches the reference" in shown


def test_an_adapter_is_shown_and_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_gliclass(tmp_path, reference_model("bert"))
    name = "encoder.layer.0.attention.self.query"
    pair = {"lora_A": torch.randn(2, 32), "lora_B": torch.randn(32, 2)}
    tensors = {f"base_model.model.{name}.{side}.weight": tensor for side, tensor in pair.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(options))
    assert run(tmp_path) == 0
    shown = capsys.readouterr().out
    assert "LoRA" in shown and "not compared" in shown
