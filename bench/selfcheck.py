"""The comparisons of `gliclass-fast check`: the engine with the reference package, int8 with float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.bench.gliznet_reference import written_reference
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import read_json, resolve_folder
from gliclass_fast.checkpoint.lora import adapter_place, open_checkpoint
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.runtime.stock_tensors import tied_names
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer

TEXTS = (
    "The rover sent back the first pictures from the crater this morning.",
    "My card was charged twice and nobody answers the phone.",
    "Der Zug nach München fährt heute leider nicht.",
    "",
    "A sequel nobody asked for, and yet it is the funniest film of the year. " * 6,
)
LABELS = ("space", "complaint", "travel", "positive", "negative", "finance and banking")

ALLOWED_ERROR = 1e-4  # the largest error of a float32 logit, relative to max(1, |reference|)
ALLOWED_CHANGES = 0.01  # the largest share of decisions that int8 may change


class ReferenceMissingError(RuntimeError):
    """Reports that there is nothing to compare with, as where the `gliclass` package is not installed."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Holds the largest error and the number of changed decisions over `pairs` of a text and a label."""

    error: float
    changed: int
    pairs: int


def logit_error(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    """Returns the largest error over all texts, relative to max(1, |expected|); NaN where anything is NaN."""
    errors = [abs(f - e) / np.maximum(1, abs(e)) for f, e in zip(found, expected, strict=True)]
    return float(np.max(np.concatenate(errors)))


def compare_with_reference(pipeline: ZeroShotClassificationPipeline, folder: str) -> Comparison:
    """Runs a few texts through the engine and, one at a time in float32, through `gliclass`.

    It compares GliZNet with `written_reference`. Raises ReferenceMissingError where there is no reference.
    """
    labels = list(LABELS)
    found = [each["logits"] for each in pipeline.get_embeddings(list(TEXTS), labels)]
    score = REFERENCES.get(pipeline.model.loaded.config.architecture_type, _gliclass)
    expected = score(pipeline, folder, labels)
    changed = sum(int(((f >= 0) != (e >= 0)).sum()) for f, e in zip(found, expected, strict=True))
    return Comparison(logit_error(found, expected), changed, len(TEXTS) * len(labels))


def _gliclass(pipeline: ZeroShotClassificationPipeline, folder: str, labels: list[str]) -> list[np.ndarray]:
    if importlib.util.find_spec("gliclass") is None:
        raise ReferenceMissingError("the reference package is not installed: pip install gliclass")
    if reason := _not_comparable(pipeline.model.loaded.config, folder):
        raise ReferenceMissingError(reason)
    import gliclass

    place = resolve_folder(folder)
    model: Any = gliclass.GLiClassModel(gliclass.GLiClassModelConfig.from_pretrained(place))
    _load(model, open_checkpoint(place))
    reference = gliclass.ZeroShotClassificationPipeline(
        model,
        pipeline.tokenizer,
        max_length=pipeline.max_length,
        device=str(pipeline.device),
        progress_bar=False,
    )
    # an encoder-decoder gives logits up to max_num_classes, also where there are fewer labels
    found = (reference.get_embeddings([text], labels)[0]["logits"] for text in TEXTS)
    return [logits[: len(labels)] for logits in found]


def _not_comparable(config: Any, folder: str) -> str | None:
    """Returns why the reference's scores of a checkpoint are not what the engine's should be, or None."""
    if adapter_place(resolve_folder(folder)) is not None:
        return "the reference does not merge the adapter that this checkpoint has"
    if config.model_type in ("llama", "qwen2") and importlib.util.find_spec("llm2vec") is None:
        return f"the reference runs {config.model_type} through llm2vec: pip install llm2vec"
    if config.label_backbone_config is not None and config.pooling_strategy != "first":
        return "the reference pools a label over the padding that other labels add"
    return None


@torch.inference_mode()
def _gliznet(pipeline: ZeroShotClassificationPipeline, folder: str, labels: list[str]) -> list[np.ndarray]:
    place = resolve_folder(folder)
    aggregator = pipeline.model.loaded.network.aggregator
    reference = written_reference(aggregator, read_json(place)["backbone_config"])
    _load(reference, open_checkpoint(place))
    tokenizer = GliZNETTokenizer(pipeline.tokenizer)
    return [reference(**tokenizer([(text, labels)]))[0].numpy() for text in TEXTS]


# These architectures have a reference of their own; all others have the reference package.
REFERENCES = {"gliznet": _gliznet}


def _load(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Loads every tensor by name, in float32: `from_pretrained` of transformers 5 leaves tied ones out."""
    known = {name: tensors[name].float() for name in model.state_dict() if name in tensors}
    known |= {name: known[first] for name, first in tied_names(tensors).items()}
    missing, _ = model.load_state_dict(known, strict=False, assign=True)  # tied ones may differ
    if wanted := [name for name in missing if "pooler" not in name]:  # nothing reads a pooler
        raise CheckpointError(f"the reference needs tensors that are not there: {', '.join(wanted)}")
    model.float().eval()


def compare_quantized(
    model: str, tokenizer: Any, quantization: str, texts: Sequence[str], labels: Any, max_length: int = 1024
) -> Comparison:
    """Compares the multi-label scores of a checkpoint in `quantization` with those in float32, on a CPU."""
    scores = []
    for each in (None, quantization):
        loaded = GLiClassModel.from_pretrained(model, device="cpu", quantization=each)
        pipeline = ZeroShotClassificationPipeline(
            loaded, tokenizer, max_length=max_length, device="cpu", progress_bar=False
        )
        found = pipeline(list(texts), labels, threshold=0.0, classification_type="multi-label")
        scores.append(np.array([pair["score"] for row in found for pair in row]))
    plain, rounded = scores
    changed = int(((plain >= 0.5) != (rounded >= 0.5)).sum())
    return Comparison(float(abs(plain - rounded).max()), changed, len(plain))
