"""Presets: each says what `gliclass-fast bench --preset` measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from gliclass_fast.bench.cases import CPU_CASES, GPU_CASES, RAGGED, Case, label_cases

LABEL_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TEXT_TOKENS = (64, 256, 512)
EVERYONE = ("gliclass", "ONNX Runtime", "fast-gliner (one text a call)", "GLiNER2 (another model)")
ON_CPUS = ("gliclass", "ONNX Runtime", "OpenVINO", "ONNX Runtime, int8", "OpenVINO, int8")
IN_THE_CARD = ("gliclass", "ONNX Runtime", "cross-encoder (NLI)")


@dataclass(frozen=True, slots=True)
class Preset:
    about: str
    cases: Callable[[str, Any], list[Case]]  # It takes a device and a tokenizer.
    parts: tuple[str, ...] = ("forward",)  # The other one is "pipeline".
    repeats: int = 9
    peers: tuple[str, ...] = ("gliclass", "ONNX Runtime")
    by_label_count: bool = False  # A grid's table has a column per number of labels.
    options: ClassVar = ("--repeats", "--model", "--threads", "--dtype", "--peers", "--report")
    devices: ClassVar = ("cpu", "cuda")


def _grid(tokenizer: Any, batch: int, counts: tuple[int, ...]) -> list[Case]:
    """Returns cases ordered by number of labels: ONNX Runtime's graph is made anew for each number."""
    by_length = [label_cases(tokenizer, counts, length, batch) for length in TEXT_TOKENS]
    return [case for cases in zip(*by_length, strict=True) for case in cases]


def _standard(device: str, tokenizer: Any) -> list[Case]:
    return list(CPU_CASES) if device == "cpu" else [*GPU_CASES, *label_cases(tokenizer)]


def _latency(device: str, tokenizer: Any) -> list[Case]:
    return [Case(f"1x{length}", (length,)) for length in (32, 64, 128, 256, 512, 1024)]


def _beside_peers(device: str, tokenizer: Any) -> list[Case]:
    return [Case("1x32", (32,)), *_standard(device, tokenizer)]


def _throughput(device: str, tokenizer: Any) -> list[Case]:
    """Returns batches of lengths as they come: the reference pads them to the longest."""
    batches = (8, 32) if device == "cpu" else (8, 32, 128)
    return [Case(f"{batch} of {RAGGED[0]}-{RAGGED[-1]}", RAGGED * (batch // 8)) for batch in batches]


PRESETS = {
    "quick": Preset(
        "what the engine gains, in two to three minutes",
        lambda device, tokenizer: [CPU_CASES[0], CPU_CASES[2]] if device == "cpu" else list(GPU_CASES[1:4]),
        ("forward", "pipeline"),
        repeats=7,
    ),
    "standard": Preset(
        "the cases of the README",
        _standard,
        ("forward", "pipeline"),
        peers=EVERYONE,
    ),
    "card": Preset(
        "the model card's grid: batch 8, texts of 64, 256 and 512 tokens, 1 to 256 labels",
        lambda device, tokenizer: _grid(tokenizer, 8, LABEL_COUNTS),
        repeats=3,
        peers=IN_THE_CARD,
        by_label_count=True,
    ),
    "paper": Preset(
        "the paper's grid: batch 1, texts of 64, 256 and 512 tokens, 1 to 128 labels",
        lambda device, tokenizer: _grid(tokenizer, 1, LABEL_COUNTS[:-1]),
        repeats=5,
        peers=IN_THE_CARD,
        by_label_count=True,
    ),
    "latency": Preset(
        "one text at a time, median and 99th percentile", _latency, ("forward", "pipeline"), 100
    ),
    "throughput": Preset("batches of mixed lengths", _throughput, ("forward", "pipeline")),
    "labels": Preset(
        "time against the number of labels, at 256 tokens of text",
        lambda device, tokenizer: label_cases(tokenizer, LABEL_COUNTS[:-1], 256, 1),
        by_label_count=True,
    ),
    "peers": Preset(
        "engines for CPUs, in float32 and in int8, from 32 tokens on",
        _beside_peers,
        repeats=15,
        peers=ON_CPUS,
    ),
}
