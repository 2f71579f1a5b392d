"""GliZNet (Kameni, 2025) on the packed engine: import these classes in place of the author's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.engine.engine import Engine
from gliclass_fast.engine.passes import LabelsPerPass
from gliclass_fast.models.gliznet.config import GliznetConfig
from gliclass_fast.pipeline import current_engine
from gliclass_fast.pipeline.checked_attributes import Setting
from gliclass_fast.pipeline.loading import refuse_own_forward, tokenizer_of
from gliclass_fast.runtime.device import resolve_device
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.runtime.pretrained import LOCATION_OPTIONS, find_pretrained
from gliclass_fast.runtime.transfer import uncompiled
from gliclass_fast.text import arguments, results
from gliclass_fast.text.arguments import checks_names
from gliclass_fast.text.errors import WrongType, WrongValue
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer
from gliclass_fast.text.labels import labels_per_text
from gliclass_fast.text.predictions import best_first
from gliclass_fast.text.prompts import Request

__all__ = [
    "GliZNETTokenizer",
    "GliZNetForSequenceClassification",
    "LabelScore",
    "PredictionOutput",
    "ZeroShotClassificationPipeline",
]
_KINDS = {"multi-label": "multi-label", "multi-class": "single-label"}  # our word for each of the author's


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Holds a label and its score, in [0, 1]."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class PredictionOutput:
    """Holds a text and its labels, the best first."""

    text: str
    labels: list[LabelScore]


class GliZNetForSequenceClassification(GLiClassModel):
    """Holds a GliZNet checkpoint on a device; the arguments are those of `GLiClassModel.from_pretrained`."""

    @classmethod
    def from_pretrained(cls, path_or_repo_id: str | Path | None = None, *args: Any, **kwargs: Any) -> Any:
        """Loads a GliZNet checkpoint; raises UnsupportedConfigError for a GLiClass checkpoint."""
        model = super().from_pretrained(path_or_repo_id, *args, **kwargs)
        if not isinstance(model.loaded.config, GliznetConfig):
            name = kwargs.get("pretrained_model_name_or_path", path_or_repo_id)
            raise UnsupportedConfigError(f"{name} is a GLiClass checkpoint, not one of GliZNet")
        return model

    @classmethod
    def from_pretrained_with_tokenizer(cls, path_or_repo_id: str | Path, **kwargs: Any) -> tuple[Any, Any]:
        """Loads the model and its tokenizer from one place, and returns both."""
        located = {name: kwargs[name] for name in LOCATION_OPTIONS if name in kwargs}
        found = find_pretrained(path_or_repo_id, located)
        return cls.from_pretrained(path_or_repo_id, **kwargs), GliZNETTokenizer(found.folder)


def _checked_model(model: Any) -> GLiClassModel:
    if not isinstance(model, GLiClassModel):
        raise TypeError(
            f"model must be a loaded one, got {type(model).__name__}; for a path or a repository id use "
            "ZeroShotClassificationPipeline.from_pretrained"
        )
    refuse_own_forward(model)
    return model


def _own_tokenizer(given: Any) -> GliZNETTokenizer:
    tokenizer = tokenizer_of(given)
    return tokenizer if isinstance(tokenizer, GliZNETTokenizer) else GliZNETTokenizer(tokenizer)


def _checked_kind(given: Any) -> str:
    kind = str.__str__(given) if isinstance(given, str) else None
    if kind not in _KINDS:
        known = "choose 'multi-label' or 'multi-class'"
        raise WrongValue(f"unsupported classification type {arguments.said(given)}: {known}")
    return kind


class ZeroShotClassificationPipeline:
    """Does zero-shot classification with the author's arguments and results."""

    model: Setting[GLiClassModel] = Setting(_checked_model)
    tokenizer: Setting[GliZNETTokenizer] = Setting(_own_tokenizer)
    classification_type: Setting[str] = Setting(_checked_kind)
    batch_tokens: Setting[int | None] = Setting(arguments.check_batch_tokens)
    _engine: Engine | None = None

    def __init__(
        self,
        model: GLiClassModel,
        tokenizer: GliZNETTokenizer | Any,
        classification_type: str = "multi-label",
        device: str | torch.device | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        """Takes a loaded model and its tokenizer.

        Args:
            model: a loaded GliZNet model.
            tokenizer: a GliZNETTokenizer, or the fast tokenizer that it would wrap.
            classification_type: "multi-label" (a score of its own for every label) or "multi-class" (scores
                that add up to 1), unless a call says otherwise.
            device: where to run; default: where the model is.
            batch_tokens: tokens per batch.

        Raises:
            TypeError: `model` is not a loaded model, or `tokenizer` is no tokenizer.
            ValueError: the classification type or the device is unknown, or the tokenizer does not fit.
        """
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        if device is not None:
            self.model.to(resolve_device(device))
        self.classification_type = classification_type
        self._engine = self.engine  # the tokenizer is checked now

    @property
    def engine(self) -> Engine:
        """Returns the engine for the settings of now."""
        given = (self.model, self.tokenizer, self.tokenizer.max_length, self.batch_tokens, None)
        return current_engine(self, *given)

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str | Path,
        classification_type: str = "multi-label",
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> ZeroShotClassificationPipeline:
        """Loads the model and its tokenizer; kwargs are options of the model."""
        model, tokenizer = GliZNetForSequenceClassification.from_pretrained_with_tokenizer(
            model_name_or_path, device=device, **kwargs
        )
        return cls(model, tokenizer, classification_type)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @uncompiled
    @checks_names
    def __call__(
        self,
        text: str | Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        threshold: float | None = None,
        classification_type: str | None = None,
        *,
        labels_per_pass: LabelsPerPass = None,
    ) -> Any:
        """Classifies a text, or every text of a list.

        Args:
            text: one text, or a list of texts.
            labels: one list for all texts, or a list per text.
            threshold: the lowest score that counts; default: every label counts.
            classification_type: the type for this call; default: that of the pipeline.
            labels_per_pass: scores at most so many labels at a time ("auto": as many as leave half the window
                to the text). A score then depends on the other labels of its group.

        Returns:
            A PredictionOutput, or a list of them for a list of texts.

        Raises:
            TypeError, ValueError: an argument is not as described above, or labels do not fit the window.
            FloatingPointError: the model gave a value that is not finite in float32 either. (A text that
                overflows 16 bit runs again in float32, with a warning.)
        """
        texts = arguments.check_texts(text)
        given = labels_per_text(labels, len(texts), ".")
        labels_per_pass = arguments.check_labels_per_pass(labels_per_pass)
        kind = self.classification_type if classification_type is None else _checked_kind(classification_type)
        requests = [Request(own, each.read) for own, each in zip(texts, given, strict=True)]
        if isinstance(threshold, (list, tuple)):
            raise WrongType("threshold must be one number for all texts")
        lowest = (
            float("-inf") if threshold is None else arguments.score_between_0_and_1(threshold, "threshold")
        )
        scored = self.engine.score(requests, labels_per_pass)
        names = [each.names for each in given]
        scores = results.scores_of(names, [each.logits for each in scored], [_KINDS[kind]] * len(scored))
        found = []
        for own, each in zip(texts, scores, strict=True):
            pairs = each.predictions("multi-label", lowest)  # every label counts, in either kind
            found.append(PredictionOutput(own, [LabelScore(**pair) for pair in best_first(pairs)]))
        return found[0] if isinstance(text, str) else found
