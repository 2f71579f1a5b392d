"""Many adapters in one batch: `--preset adapters` measures what they cost beside the model without any.

The model is DeBERTa-v3-base with random weights; adapters have rank 16 on queries, keys, values and all dense
layers. The other way to serve several adapters takes the texts of one after another: it merges the adapter
into the weights, runs its texts and takes it out again. The reference does so in place; the engine follows
the same live model, and is built anew for every adapter. The package polylora gives the reference an adapter
per text; it takes part where it is installed.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gliclass
import torch
from safetensors.torch import load_file, save_file

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.bench import cases
from gliclass_fast.bench.timing import alternate

SHAPE = "deberta-v3-base"
RANK = 16
CASE = cases.Case("32 of 40-128", cases.RAGGED * 4)
COUNTS = (8, 64)  # adapters
TARGETS = ("query_proj", "key_proj", "value_proj", "dense")
BASE, ADAPTED = "no adapters, ms", "adapters, ms"
BASE_INT8, ADAPTED_INT8 = "int8, no adapters, ms", "int8, adapters, ms"
MERGED, REBUILT = "gliclass, merged in turn, ms", "gliclass-fast, merged in turn, ms"
POLYLORA = "gliclass with polylora, ms"
LABELS = list(CASE.labels)
EVERY_TOKEN = 1 << 14  # of a batch


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


class Contest:
    """Holds the model, its adapters, and the ways to run the texts of the case with them."""

    def __init__(self, folder: Path) -> None:
        """Writes the adapters into a folder."""
        self.reference = cases.random_model(SHAPE)
        self.texts = cases.texts(CASE, cases.demo_tokenizer())
        self.names = [f"adapter {n}" for n in range(max(COUNTS))]
        self.ours, self.int8 = self._pipeline(), self._pipeline("int8")
        for number, name in enumerate(self.names):
            write_adapter(self.reference, folder / name, number)
            self.ours.load_adapter(name, folder / name)
            self.int8.load_adapter(name, folder / name)
        self._folder, self._calls = folder, 0
        self.following = self._pipeline()
        self.theirs = self._stock(self.reference)
        self.polylora = self._with_polylora()

    def _pipeline(self, quantization: str | None = None) -> ZeroShotClassificationPipeline:
        model = GLiClassModel.from_gliclass(self.reference, device="cpu", quantization=quantization)
        return ZeroShotClassificationPipeline(
            model, cases.demo_tokenizer(), device="cpu", progress_bar=False, batch_tokens=EVERY_TOKEN
        )

    @staticmethod
    def _stock(model: Any) -> Any:
        return gliclass.ZeroShotClassificationPipeline(
            model, cases.demo_tokenizer(), device="cpu", progress_bar=False
        )

    def _with_polylora(self) -> Any:
        """Returns the reference as its server wraps it for adapters, or None without the package."""
        try:
            from polylora import PolyLoraConfig, PolyLoraModel
        except ImportError:
            return None
        model = copy.deepcopy(self.reference)
        slots = len(self.names) + 1  # one is the model's without adapter
        options = PolyLoraConfig(slots, max_rank=RANK, target_modules=list(TARGETS))
        wrapped = PolyLoraModel(model.model.encoder_model, options).eval()
        for name in self.names:
            wrapped.load_adapter_from_disk(name, str(self._folder / name))
        model.model.encoder_model = wrapped
        return self._stock(model)

    def polylora_error(self, count: int) -> float:
        """Returns the largest difference between a score of ours and one of polylora's."""
        ids, scores = self.ids(count), list[list[dict[str, float]]]()
        for pipeline in (self.ours, self.polylora):
            found = pipeline(self.texts, LABELS, adapter_ids=ids, threshold=0.0)
            scores.append([{each["label"]: each["score"] for each in text} for text in found])
        pairs = zip(*scores, strict=True)
        largest: float = max(abs(mine[label] - other[label]) for mine, other in pairs for label in mine)
        return largest

    def ids(self, count: int) -> list[str]:
        """Returns the adapter of every text; where there are more adapters than texts, calls take turns."""
        self._calls += 1
        first = self._calls * len(self.texts)
        return [self.names[(first + n) % count] for n in range(len(self.texts))]

    def run(self, pipeline: Any, count: int) -> Any:
        """Runs all texts in one call, with so many adapters, or without any."""
        return pipeline(self.texts, LABELS, adapter_ids=self.ids(count) if count else None)

    def in_turn(self, pipeline: Any, count: int) -> None:
        """Runs the texts of one adapter after another."""
        ids = self.ids(count)
        for name in dict.fromkeys(ids):
            self._merge(name, 1)
            pipeline([text for text, own in zip(self.texts, ids, strict=True) if own == name], LABELS)
            self._merge(name, -1)

    def _merge(self, name: str, sign: int) -> None:
        tensors = load_file(self._folder / name / "adapter_model.safetensors")
        with torch.no_grad():
            for key, a in tensors.items():
                if key.endswith("_A.weight"):
                    module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                    weight = self.reference.model.encoder_model.get_submodule(module).weight
                    weight.addmm_(tensors[key.replace("_A.", "_B.")], a, alpha=sign)


def measure(repeats: int = 5, step: Callable[[str], None] = lambda name: None) -> Iterator[dict[str, Any]]:
    """Yields the times per number of adapters, of the ways that run in turn for the smallest number alone."""
    step("making the model")
    with tempfile.TemporaryDirectory() as folder:
        contest = Contest(Path(folder))
        for count in COUNTS:
            step(f"{count} adapters")
            functions: dict[str, Callable[[], Any]] = {}
            for name, pipeline, adapters in (
                (BASE, contest.ours, 0),
                (ADAPTED, contest.ours, count),
                (BASE_INT8, contest.int8, 0),
                (ADAPTED_INT8, contest.int8, count),
            ):
                pipeline.model.on_change = "ignore"  # the model that the others change
                functions[name] = lambda p=pipeline, n=adapters: contest.run(p, n)  # type: ignore[misc]
            times = alternate(functions, repeats)
            facts: dict[str, Any] = {"adapters": count, "texts": len(contest.texts)}
            if contest.polylora is not None:
                facts["polylora_error"] = contest.polylora_error(count)
                others = {POLYLORA: lambda n=count: contest.run(contest.polylora, n)}  # type: ignore[misc]
                times |= alternate(others, max(1, repeats // 2), warmup=1)
            if count == min(COUNTS):
                in_turn: dict[str, Callable[[], Any]] = {
                    REBUILT: lambda n=count: contest.in_turn(contest.following, n),  # type: ignore[misc]
                    MERGED: lambda n=count: contest.in_turn(contest.theirs, n),  # type: ignore[misc]
                }
                times |= alternate(in_turn, max(1, repeats // 2), warmup=1)
            yield facts | {"times": {name: asdict(each) for name, each in times.items()}}
