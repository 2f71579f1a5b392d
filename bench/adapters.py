"""Many adapters in one batch: `--preset adapters` measures what they cost beside the model without any.

The model is DeBERTa-v3-base with random weights; adapters have rank 16 on queries, keys, values and all dense
layers. The other ways to serve several adapters take the texts of one adapter after another: PEFT merges each
into the reference's model and takes it out again, or the engine is built anew for each.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.bench import cases
from gliclass_fast.bench.timing import alternate

SHAPE = "deberta-v3-base"
RANK = 16
CASE = cases.Case("32 of 40-128", cases.RAGGED * 4)
COUNTS = (8, 64)  # adapters
TARGETS = ("query_proj", "key_proj", "value_proj", "dense")
BASE, OURS, QUANTIZED = "without adapters", "gliclass-fast", "gliclass-fast, int8"
QUANTIZED_BASE = "without adapters, int8"
MERGED, REBUILT = "gliclass, merged by PEFT in turn", "gliclass-fast, built anew in turn"


def write_adapter(model: Any, folder: Path, seed: int) -> None:
    """Writes an adapter of random values for a reference model, in the form in which PEFT saves one."""
    made = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.model.encoder_model.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            out, width = module.weight.shape
            key = f"base_model.model.{name}.lora"
            tensors[f"{key}_A.weight"] = torch.randn(RANK, width, generator=made) * width**-0.5
            tensors[f"{key}_B.weight"] = torch.randn(out, RANK, generator=made) * 0.02
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    options = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": list(TARGETS)}
    (folder / "adapter_config.json").write_text(json.dumps(options), encoding="utf-8")


def measure(repeats: int = 5, step: Callable[[str], None] = lambda name: None) -> Iterator[dict[str, Any]]:
    """Yields the times and the largest error of a logit, per number of adapters."""
    step("making the model")
    reference, tokenizer = cases.random_model(SHAPE), cases.demo_tokenizer()
    texts = cases.texts(CASE, tokenizer)
    pipe = partial(ZeroShotClassificationPipeline, tokenizer=tokenizer, device="cpu", progress_bar=False)
    ours = pipe(GLiClassModel.from_gliclass(reference, device="cpu"), batch_tokens=1 << 14)
    int8 = pipe(
        GLiClassModel.from_gliclass(reference, device="cpu", quantization="int8"), batch_tokens=1 << 14
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folders = {f"adapter {n}": folder / str(n) for n in range(max(COUNTS))}
        for number, (name, place) in enumerate(folders.items()):
            write_adapter(reference, place, number)
            ours.load_adapter(name, place)
            int8.load_adapter(name, place)
        for count in COUNTS:
            step(f"{count} adapters")
            names = list(folders)[:count]
            turn = [0]

            def ids(names: Sequence[str] = tuple(names), turn: list[int] = turn) -> list[str]:
                turn[0] += len(texts)  # with more adapters than texts, the next call has the others
                return [names[(turn[0] + n) % len(names)] for n in range(len(texts))]

            functions: dict[str, Callable[[], Any]] = {
                BASE: lambda: ours.get_embeddings(texts, list(CASE.labels)),
                OURS: lambda ids=ids: ours.get_embeddings(texts, list(CASE.labels), adapter_ids=ids()),
                QUANTIZED_BASE: lambda: int8.get_embeddings(texts, list(CASE.labels)),
                QUANTIZED: lambda ids=ids: int8.get_embeddings(texts, list(CASE.labels), adapter_ids=ids()),
            }
            times = alternate(functions, repeats)
            yield {"adapters": count, "texts": len(texts), "times": {k: asdict(v) for k, v in times.items()}}


if __name__ == "__main__":
    for row in measure(5, print):
        print(row["adapters"], {k: round(v["median"]) for k, v in row["times"].items()})
