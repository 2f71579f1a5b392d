"""Patterns that would match for very long are refused before they match; those that people write are not."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from gliclass_fast import GLiClassModel
from gliclass_fast.checkpoint.name_patterns import compiled, refused_pattern, slowest
from tests.refusal import refused

LORA = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
QUERY = "encoder.layer.0.attention.self.query"
QWEN = [
    f"model.layers.{layer}.{name}_proj"
    for layer in range(36)
    for name in (
        *(f"self_attn.{each}" for each in "qkvo"),
        *(f"mlp.{each}" for each in ("gate", "up", "down")),
    )
]


def load(folder: Path, options: dict[str, Any]) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(LORA | options))
    pair = {"A": torch.zeros(4, 32), "B": torch.zeros(32, 4)}
    tensors = {f"base_model.model.{QUERY}.lora_{side}.weight": each for side, each in pair.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    GLiClassModel.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (
            "(?i)X",
            r"is not a regular expression: global flags|begins with '\(\?'",
        ),  # the last before Python 3.11
        ("a{" + "1" * 5000 + "}", "is not a regular expression"),
        ("a)|(b", "is not a regular expression"),
        ("(?#[).*.*.*.*.*]", r"has a group that begins with '\(\?'"),
        ("(?x: #[\n.*.*.*.*)]", r"has a group that begins with '\(\?'"),
        ("(?=.*a)query", r"has a group that begins with '\(\?'"),
    ],
)
def test_refused(folder: Path, pattern: str, reason: str) -> None:
    for patterns in ("rank_pattern", "alpha_pattern"):
        refused(
            lambda patterns=patterns: load(folder, {patterns: {pattern: 4}}),  # type: ignore[misc]
            rf"(?s)adapter_config\.json: the pattern .* of {patterns} {reason}",
        )


# each would match for longer than a test may take
SLOW = {
    "options": {"rank_pattern": {".?" * 40 + "Z": 4}},
    "alternatives": {"alpha_pattern": {"(.|..)" * 40 + "Z": 4}},
    "groups in groups": {"rank_pattern": {"((.|.[a-z])(?:.|..|...)|x)" * 20 + "Z": 4}},
    "options and repeats": {"rank_pattern": {".?" * 12 + ".*.*.*Z": 4}},
    "many patterns": {"rank_pattern": {".?" * 19 + f"Z{number}": 4 for number in range(256)}},
}


@pytest.mark.parametrize("name", SLOW)
def test_slow_ones_are_refused(folder: Path, name: str) -> None:
    message = r"adapter_model\.safetensors: the pattern '.*' of .*_pattern .* could take very long to match"
    refused(lambda: load(folder, SLOW[name]), message)


def test_those_that_people_write_are_taken() -> None:
    numbers = "|".join(map(str, range(36)))
    patterns = [
        "q_proj",
        "layers.0.(q|k|v)_proj",
        r"layers\.\d+\.self_attn\.(?:q|k|v|o)_proj",
        r".*\.layers\.[0-9]+\.mlp\.(gate|up|down)_proj",
        rf"^model\.layers\.({numbers})\.self_attn\.(q|k)_proj$",
        r"(model\.)?layers\.\d{1,2}\.(self_attn|mlp)\.[a-z]+_proj",
        *QWEN,
    ]
    assert [pattern for pattern in patterns if refused_pattern(pattern)] == []
    assert slowest(patterns, QWEN) is None
    assert [name for name in QWEN if compiled(patterns[1]).match(name)] == []
    assert [name for name in QWEN if compiled(patterns[2]).match(name)] == [n for n in QWEN if "attn" in n]


@pytest.mark.parametrize(
    "pattern",
    [".?" * 14 + "Z", "(.|..)" * 13 + "Z", "()" * 300 + ".*.*" + r"\B" * 300 + "Z", ".*[a-z].*[a-z].*[A-Z]"],
)
def test_what_is_taken_is_matched_soon(pattern: str) -> None:
    """The slowest that are admitted, or about: one such pattern takes all the steps that there are."""
    names = [name for number, name in enumerate(QWEN) if slowest([pattern], QWEN[: number + 1]) is None]
    assert names and refused_pattern(pattern) is None
    start = time.process_time()
    assert not any(compiled(pattern).match(name) for name in names)
    assert time.process_time() - start < 5
