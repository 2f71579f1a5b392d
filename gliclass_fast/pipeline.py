"""Drop-in `ZeroShotClassificationPipeline`: it takes texts and labels and returns scored labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from transformers import BatchEncoding

from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import load_tokenizer
from gliclass_fast.engine.engine import Engine, LabelsPerPass
from gliclass_fast.runtime.device import resolve_device
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text import arguments, results
from gliclass_fast.text.prompts import Markers, Request, flatten_labels


@dataclass(frozen=True, slots=True)
class TextInfo:
    """Counts, for one text, the tokens that ran, those that the window left no room for, and the passes."""

    tokens: int
    tokens_cut: int
    passes: int


Value = TypeVar("Value")


class Setting(Generic[Value]):
    """An attribute of a pipeline, checked whenever it is set; the engine follows at the next call."""

    def __init__(self, check: Callable[[Any], Value] = lambda value: value) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._place = f"_{name}"

    def __get__(self, pipeline: Any, owner: type | None = None) -> Any:
        return self if pipeline is None else pipeline.__dict__[self._place]

    def __set__(self, pipeline: Any, value: Any) -> None:
        pipeline.__dict__[self._place] = self._check(value)
        pipeline._engine = None


class BasePipeline:
    """Holds what both pipelines share: a model, its tokenizer, and the reference's settings."""

    model: Setting[GLiClassModel] = Setting(lambda model: load_model(model))
    tokenizer: Setting[Any] = Setting(lambda given: load_tokenizer(given) if _is_name(given) else given)
    labels_tokenizer: Setting[Any] = Setting()
    max_length: Setting[int] = Setting(lambda value: arguments.check_count("max_length", value))
    batch_tokens: Setting[int | None] = Setting(
        lambda value: None if value is None else arguments.check_count("batch_tokens", value)
    )
    classification_type: Setting[str] = Setting(arguments.check_classification_type)

    def __init__(
        self,
        model: GLiClassModel | str | Path | Any,
        tokenizer: Any = None,
        max_classes: int = 25,
        max_length: int = 1024,
        classification_type: str = "multi-label",
        device: str | torch.device | int | None = "cuda:0",
        progress_bar: bool = True,
        label_separator: str = ".",
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
        warm_up: Sequence[int] = (),
        **model_options: Any,
    ) -> None:
        """Loads the model and its tokenizers.

        Args:
            model: our model, a folder or repository id, or an already loaded `gliclass` model, whose weights
                are taken.
            tokenizer: a fast tokenizer or its folder or repository id; default: the model's own, if `model`
                is a path or repository id.
            max_classes: has no effect, as any number of labels that fits the window works.
            max_length: the window in tokens, special tokens included.
            classification_type: "multi-label" or "single-label", unless a call says otherwise.
            device: where to run; a GPU falls back to the CPU where there is none.
            progress_bar: whether to show a progress bar.
            label_separator: the string that joins the levels of nested labels.
            batch_tokens: tokens per batch, as batches are formed by tokens and not by the number of texts;
                at most 16384 with CUDA graphs.
            labels_tokenizer: the fast tokenizer of a bi-encoder's label tower, or its folder or repository
                id; default: the one that `label_model_name` in config.json names.
            warm_up: sizes of batches, in tokens. They are compiled, and on a GPU recorded as CUDA graphs, now
                and not when the first of them comes; `model.warm_up` has more options.
            model_options: those of `GLiClassModel.from_pretrained`, where `model` is a path or repository id,
                or of `GLiClassModel.from_gliclass`, where it is a `gliclass` model: dtype, quantization,
                on_change and others.

        What is set later as an attribute counts from the next call on, as in the reference.

        Raises:
            TypeError: `model` is of another type, or there is no tokenizer.
            ValueError: a setting is not valid, or the checkpoint is not: `CheckpointError` and
                `UnsupportedConfigError` are of this type.
        """
        if tokenizer is None:
            if not isinstance(model, (str, Path)):
                raise TypeError("give a tokenizer, or give the model as a path or repository id that has one")
            tokenizer = model
        self.max_classes, self.max_length, self.batch_tokens = max_classes, max_length, batch_tokens
        self.classification_type = classification_type
        self.progress_bar, self.label_separator = progress_bar, label_separator
        self.model = load_model(model, resolve_device(device, fall_back=True), **model_options)
        self.tokenizer = tokenizer
        self.labels_tokenizer = self._load_labels_tokenizer(labels_tokenizer)
        self.model.warm_up(warm_up)
        self._engine = self.engine  # the tokenizers are checked now

    @property
    def engine(self) -> Engine:
        """Returns the engine for the settings of now."""
        if self._engine is None:
            self._engine = Engine(
                self.model, self.tokenizer, self.max_length, self.batch_tokens, self.labels_tokenizer
            )
        return self._engine

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, max_length={self.max_length})"

    def _load_labels_tokenizer(self, given: Any) -> Any:
        config = self.model.loaded.config
        if given is not None and config.label_backbone_config is None:
            raise ValueError("labels_tokenizer is for bi-encoders: this model has no label tower")
        if given is None and config.label_backbone_config is not None:
            given = config.label_model_name
            if given is None:
                raise ValueError("config.json names no 'label_model_name': give labels_tokenizer")
        if not isinstance(given, (str, Path)):
            return given
        try:
            return load_tokenizer(given)
        except CheckpointError as error:
            raise CheckpointError(
                "the label tower's tokenizer, which config.json's "
                f"label_model_name={config.label_model_name!r} or labels_tokenizer= names, cannot be loaded: "
                f"{error}"
            ) from None

    @property
    def device(self) -> torch.device:
        """Returns where the model runs; to set another one moves the model."""
        model: GLiClassModel = self.model
        return model.device

    @device.setter
    def device(self, device: str | torch.device | int | None) -> None:
        self.model.to(resolve_device(device, fall_back=True))

    # the reference's names for the markers of a prompt; the checkpoint was trained with them
    label_token = property(lambda self: Markers().label)
    sep_token = property(lambda self: Markers().sep)
    example_token = property(lambda self: Markers().example)

    def refresh(self) -> None:
        """Builds the model anew from its checkpoint, or from the live model it was made of.

        Changes of a live model are noticed by themselves, as far as `on_change` and `LiveState` say.
        """
        self.model.refresh()

    def flatten_labels(self, labels: Any) -> list[str]:
        """Flattens nested labels: {"topic": ["sport", "art"]} gives ["topic.sport", "topic.art"]."""
        return flatten_labels(labels, separator=self.label_separator)

    def get_embeddings(
        self,
        texts: str | Sequence[str],
        labels: Any,
        batch_size: int = 8,
        examples: Sequence[Any] | None = None,
        prompt: str | Sequence[str] | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """Returns per text, in float32: logits [labels], text_embedding [C], class_embeddings [labels, C].

        With pooling "pass", text_embedding keeps one row per token of the prompt. Raises TypeError,
        ValueError and FloatingPointError as a call of `ZeroShotClassificationPipeline` does.
        """
        requests, _ = self._requests(texts, labels, prompt, examples, None)
        return self.engine.embed(requests, self.progress_bar)

    def prepare_inputs(
        self,
        texts: Sequence[str],
        labels: Any,
        same_labels: bool = False,
        examples: Sequence[Any] | None = None,
        prompt: str | Sequence[str] | None = None,
    ) -> BatchEncoding:
        """Returns the padded tensors that a stock model is called with, on the model's device.

        same_labels: has no effect, as one list of labels and a list per text are told apart. Raises TypeError
        and ValueError as a call of `ZeroShotClassificationPipeline` does.
        """
        requests, _ = self._requests(texts, labels, prompt, examples, None)
        return BatchEncoding(self.engine.padded_inputs(requests)).to(self.device)

    def _requests(
        self, texts: Any, labels: Any, prompt: Any, examples: Any, rac_examples: Any, first: int = 0
    ) -> tuple[list[Request], list[Any]]:
        """Returns a request per text, and the structure of its labels; messages count texts from `first`."""
        texts = arguments.check_texts(texts, first)
        flat, structures = arguments.labels_per_text(labels, len(texts), self.label_separator)
        columns = (
            texts,
            flat,
            arguments.tasks_per_text(prompt, len(texts)),
            arguments.examples_per_text(examples, len(texts)),
            arguments.examples_per_text(rac_examples, len(texts), "rac_examples"),
        )
        return [Request(*row) for row in zip(*columns, strict=True)], structures


class ZeroShotClassificationPipeline(BasePipeline):
    """Does zero-shot classification with the reference's names, arguments and results.

    A text's scores never depend on what else is in the call: they are those of the reference at batch size 1.
    """

    @property
    def pipe(self) -> ZeroShotClassificationPipeline:
        """Returns the pipeline itself; under this name the reference wraps an inner pipeline."""
        return self

    def __call__(
        self,
        texts: str | Sequence[str],
        labels: Any,
        threshold: float | Sequence[float] = 0.5,
        batch_size: int = 8,
        classification_type: str | Sequence[str] | None = None,
        rac_examples: Sequence[Any] | None = None,
        examples: Sequence[Any] | None = None,
        prompt: str | Sequence[str] | None = None,
        return_hierarchical: bool = False,
        adapter_ids: Any = None,
        images: Any = None,
        audio: Any = None,
        *,
        labels_per_pass: LabelsPerPass = None,
        return_info: bool = False,
        first_text: int = 0,
    ) -> Any:
        """Classifies texts.

        Args:
            texts: one string or a list of them; an empty string is a valid text.
            labels: a list or a nested dict for all texts, or one of these per text.
            threshold: the lowest score that counts for multi-label, in [0, 1], for all texts or per text.
            batch_size: has no effect; see `batch_tokens`.
            classification_type: "single-label" or "multi-label", for all texts or per text.
            rac_examples: retrieved examples {"text", "true_labels", "all_labels"}, shared or per text.
            examples: few-shot examples {"text", "labels"}, shared or per text.
            prompt: a task description, for all texts or per text.
            return_hierarchical: returns every score in the shape of the labels, not a list of predictions.
            labels_per_pass: scores at most so many labels at a time ("auto": as many as leave half the window
                to the text).
            return_info: returns (results, one `TextInfo` per text).
            first_text: the number by which messages name the first text, for long inputs that come in parts.

        Returns:
            A list of {"label": str, "score": float} per text: for single-label the best label, for
            multi-label the labels at or above the threshold, in their order. Calibrated models add
            "initial_score".

        Raises:
            TypeError, ValueError: an argument is not as described above, or labels do not fit the window.
            FloatingPointError: the model gave a value that is not finite in float32 either. (A text that
                overflows 16 bit runs again in float32, with a warning.)
        """
        for name, value in (("adapter_ids", adapter_ids), ("images", images), ("audio", audio)):
            if value is not None:
                raise ValueError(
                    f"{name} is not supported yet: this engine runs text models without adapters"
                )
        arguments.check_labels_per_pass(labels_per_pass)
        requests, structures = self._requests(texts, labels, prompt, examples, rac_examples, first_text)
        thresholds = arguments.thresholds_per_text(threshold, len(requests))
        types = arguments.classification_types_per_text(
            classification_type, len(requests), self.classification_type
        )
        scored = self.engine.score(
            requests, labels_per_pass, self.progress_bar, range(first_text, first_text + len(requests))
        )
        scores = results.scores_of(
            [request.labels for request in requests], [each.logits for each in scored], types
        )
        rows = zip(scores, types, thresholds, strict=True)
        found: list[Any] = [each.predictions(kind, least) for each, kind, least in rows]
        if return_hierarchical:
            shaped = zip(scores, structures, found, strict=True)
            found = [each.hierarchical(shape, own, self.label_separator) for each, shape, own in shaped]
        if not return_info:
            return found
        return found, [TextInfo(each.tokens, each.tokens_cut, each.passes) for each in scored]


def _is_name(given: Any) -> bool:
    return isinstance(given, (str, Path))


def load_model(model: Any, device: torch.device | None = None, **options: Any) -> GLiClassModel:
    """Returns our model, on `device` where one is given, made from whatever a pipeline may be given.

    options: those of the model, where it is not ours already. Raises TypeError for anything else.
    """
    if isinstance(model, GLiClassModel):
        if options:
            raise TypeError(
                f"{sorted(options)} go with a path or a repository id: the model is loaded already"
            )
        return model if device is None else model.to(device)
    if _is_name(model):
        return GLiClassModel.from_pretrained(model, device=device, **options)
    if isinstance(model, torch.nn.Module) and hasattr(model, "config"):
        return GLiClassModel.from_gliclass(model, device=device, **options)
    raise TypeError(f"model must be a GLiClassModel, a path or a repository id, got {type(model).__name__}")
