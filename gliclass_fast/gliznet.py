"""GliZNet (Kameni, 2025) on the packed engine, under the author's names: import these in place of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gliclass_fast.checkpoint.files import read_json, resolve_folder
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.engine.engine import Engine, LabelsPerPass
from gliclass_fast.models.configuration import read_config
from gliclass_fast.models.gliznet.config import GliznetConfig
from gliclass_fast.runtime.device import resolve_device
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text import arguments, results
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer
from gliclass_fast.text.prompts import Request

__all__ = [
    "GliZNETTokenizer",
    "GliZNetForSequenceClassification",
    "LabelScore",
    "PredictionOutput",
    "ZeroShotClassificationPipeline",
]
_KINDS = {"multi-label": "multi-label", "multi-class": "single-label"}  # ours of theirs


@dataclass(frozen=True, slots=True)
class LabelScore:
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class PredictionOutput:
    """A text and its labels, the best first."""

    text: str
    labels: list[LabelScore]


class GliZNetForSequenceClassification(GLiClassModel):
    """A GliZNet checkpoint loaded on a device; arguments as of `GLiClassModel.from_pretrained`."""

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(read_config(read_json(resolve_folder(path_or_repo_id))), GliznetConfig):
            raise UnsupportedConfigError(f"{path_or_repo_id} is a GLiClass checkpoint, not one of GliZNet")
        return super().from_pretrained(path_or_repo_id, *args, **kwargs)

    @classmethod
    def from_pretrained_with_tokenizer(cls, path_or_repo_id: str | Path, **kwargs: Any) -> tuple[Any, Any]:
        """The model and its tokenizer, from one place."""
        return cls.from_pretrained(path_or_repo_id, **kwargs), GliZNETTokenizer(path_or_repo_id)


class ZeroShotClassificationPipeline:
    """Zero-shot classification with the author's arguments and results."""

    def __init__(
        self,
        model: GLiClassModel,
        tokenizer: GliZNETTokenizer | Any,
        classification_type: str = "multi-label",
        device: str | torch.device | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """
        Args:
            model: one of GliZNet.
            tokenizer: a GliZNETTokenizer, or the fast tokenizer it would wrap.
            classification_type: "multi-label" (a score of its own for every label) or "multi-class" (scores
                that add up to 1), unless a call says otherwise.
            device: default: where the model is.
            batch_tokens: tokens per batch.
        """
        if not isinstance(model, GLiClassModel):
            raise TypeError(
                f"model must be a loaded one, got {type(model).__name__}; for a path or a repository id use "
                "ZeroShotClassificationPipeline.from_pretrained"
            )
        self.model = model if device is None else model.to(resolve_device(device))
        self.tokenizer = tokenizer if isinstance(tokenizer, GliZNETTokenizer) else GliZNETTokenizer(tokenizer)
        self.classification_type = _kind(classification_type) and classification_type
        self.engine = Engine(self.model, self.tokenizer, self.tokenizer.max_length, batch_tokens)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        classification_type: str = "multi-label",
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> ZeroShotClassificationPipeline:
        """kwargs: of the model."""
        model, tokenizer = GliZNetForSequenceClassification.from_pretrained_with_tokenizer(
            model_name_or_path, device=device, **kwargs
        )
        return cls(model, tokenizer, classification_type)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def __call__(
        self,
        text: str | Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        threshold: float | None = None,
        classification_type: str | None = None,
        *,
        labels_per_pass: LabelsPerPass = None,
    ) -> Any:
        """Classifies a text, or every one of a list.

        Args:
            text: one or several.
            labels: for all texts, or a list per text.
            threshold: labels with lower scores are left out; default: none are.
            labels_per_pass: at most so many labels at a time ("auto": as many as leave half the window to the
                text). Their scores are then those of the group they were in.

        Returns:
            A PredictionOutput, or a list of them for a list of texts.

        Raises:
            TypeError, ValueError: an argument is not as described above, or labels do not fit the window.
            FloatingPointError: the model gave a value that is not finite in float32 either. (What overflows
                16 bit runs again in float32, with a warning.)
        """
        texts = arguments.check_texts(text)
        flat, _ = arguments.labels_per_text(labels, len(texts), ".")
        arguments.check_labels_per_pass(labels_per_pass)
        kind = _kind(self.classification_type if classification_type is None else classification_type)
        requests = [Request(*pair) for pair in zip(texts, flat, strict=True)]
        if isinstance(threshold, (list, tuple)):
            raise TypeError("threshold must be one number for all texts")
        lowest = float("-inf") if threshold is None else arguments.thresholds_per_text(threshold, 1)[0]
        scored = self.engine.score(requests, labels_per_pass)
        scores = results.scores_of(flat, [each.logits for each in scored], [kind] * len(scored))
        found = []
        for own, each in zip(texts, scores, strict=True):
            pairs = each.predictions("multi-label", lowest)  # of either kind, every label counts
            pairs.sort(key=lambda pair: pair["score"], reverse=True)
            found.append(PredictionOutput(own, [LabelScore(**pair) for pair in pairs]))
        return found[0] if isinstance(text, str) else found


def _kind(classification_type: Any) -> str:
    if classification_type not in _KINDS:
        raise ValueError(
            f"unsupported classification type {classification_type!r}: choose 'multi-label' or 'multi-class'"
        )
    return _KINDS[classification_type]
