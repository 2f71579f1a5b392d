"""Drop-in `ZeroShotClassificationPipeline`: it takes texts and labels and returns scored labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding

from gliclass_fast import make_lazy
from gliclass_fast.engine.engine import Engine
from gliclass_fast.engine.given import (
    Fixed,
    Setting,
    fitting_labels_tokenizer,
    is_name,
    labels_tokenizer_of,
    load_model,
    tokenizer_beside,
    tokenizer_of,
)
from gliclass_fast.engine.passes import LabelsPerPass
from gliclass_fast.engine.permutations import score_in_orders
from gliclass_fast.pipeline import hugging_face
from gliclass_fast.runtime.adapters import AdapterInfo
from gliclass_fast.runtime.device import resolve_device
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text import arguments
from gliclass_fast.text.abstention import Abstention
from gliclass_fast.text.arguments import OnTruncation
from gliclass_fast.text.examples import examples_per_text
from gliclass_fast.text.hierarchy import (
    build_hierarchical_output,
    flatten_hierarchical_labels,
    format_examples_prompt,
    get_best_per_category,
    group_predictions_by_hierarchy,
    parse_hierarchical_prediction,
)
from gliclass_fast.text.labels import Labels, flatten_labels, labels_per_text, with_descriptions
from gliclass_fast.text.padded import padded_labels, padded_prompts
from gliclass_fast.text.prompts import Markers, Request
from gliclass_fast.text.results import Classification, TextInfo

__all__ = [
    "BaseZeroShotClassificationPipeline",
    "BiEncoderZeroShotClassificationPipeline",
    "DecoderKVZeroShotClassificationPipeline",
    "EncoderDecoderZeroShotClassificationPipeline",
    "TextInfo",
    "UniEncoderZeroShotClassificationPipeline",
    "ZeroShotClassificationPipeline",
    "build_hierarchical_output",
    "flatten_hierarchical_labels",
    "format_examples_prompt",
    "get_best_per_category",
    "group_predictions_by_hierarchy",
    "parse_hierarchical_prediction",
]


class BasePipeline:
    """Holds what both pipelines share: a model, its tokenizer, and the reference's settings."""

    _engine: Engine | None = None
    _labels_tokenizer: Any
    tokenizer: Setting[Any] = Setting(tokenizer_of)
    max_length: Setting[int | None] = Setting(arguments.tokens_per_window)
    batch_tokens: Setting[int | None] = Setting(arguments.tokens_per_batch)
    classification_type: Setting[str] = Setting(arguments.check_classification_type)
    on_truncation: Setting[OnTruncation] = Setting(arguments.check_on_truncation)
    label_separator: Setting[str] = Setting(partial(arguments.plain_string, name="label_separator"))

    def __init__(
        self,
        model: GLiClassModel | str | Path | Any,
        tokenizer: Any = None,
        max_classes: int = 25,
        max_length: int | None = 1024,
        classification_type: str = "multi-label",
        device: str | torch.device | int | None = "cuda:0",
        progress_bar: bool = True,
        label_separator: str = ".",
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
        warm_up: Sequence[int] = (),
        on_truncation: OnTruncation = "warn",
        **model_options: Any,
    ) -> None:
        """Loads the model and its tokenizers.

        Args:
            model: our model, a folder or repository id, or an already loaded `gliclass` model, whose weights
                are taken.
            tokenizer: a fast tokenizer or its folder or repository id; default: the model's own, if `model`
                is a path or repository id.
            max_classes: has no effect, as any number of labels that fits the window works.
            max_length: the window in tokens, special tokens included; None: the tokenizer's own limit.
            classification_type: "multi-label" or "single-label", unless a call says otherwise.
            device: where to run; a GPU falls back to the CPU where there is none.
            progress_bar: whether a terminal shows a progress bar, in calls of many texts.
            label_separator: the string that joins the levels of nested labels.
            batch_tokens: tokens per batch, as batches are formed by tokens and not by the number of texts;
                at most 16384 with CUDA graphs.
            labels_tokenizer: the fast tokenizer of a bi-encoder's label tower, or its folder or repository
                id; default: the one that `label_model_name` in config.json names.
            warm_up: sizes of batches, in tokens. They are compiled, and on a GPU recorded as CUDA graphs, now
                and not when the first of them comes; `model.warm_up` has more options.
            on_truncation: what happens where the window cuts a text: "warn" logs its number, once a minute at
                most; "error" raises ValueError before anything runs; "ignore" says nothing.
            model_options: those of `GLiClassModel.from_pretrained`, where `model` is a path or repository id,
                or of `GLiClassModel.from_gliclass`, where it is a `gliclass` model: dtype, quantization,
                on_change and others.

        What is set later as an attribute counts from the next call on, as in the reference.

        Raises:
            TypeError: `model` is of another type, or there is no tokenizer.
            ValueError: a setting is not valid, or the checkpoint is not: `CheckpointError` and
                `UnsupportedConfigError` are of this type.
        """
        self.max_classes, self.max_length, self.batch_tokens = max_classes, max_length, batch_tokens
        self.classification_type, self.on_truncation = classification_type, on_truncation
        self.progress_bar, self.label_separator = progress_bar, label_separator
        if tokenizer is None or (is_name(tokenizer) and tokenizer == model):
            tokenizer = tokenizer_beside(model, model_options)
        self._model = load_model(model, resolve_device(device, fall_back=True), **model_options)
        self._model_options, self.tokenizer = model_options, tokenizer
        self.labels_tokenizer = labels_tokenizer
        self.model.warm_up(warm_up)
        self._engine = self.engine  # the tokenizers are checked now

    @property
    def model(self) -> GLiClassModel:
        """Returns the model; another one may be set, as the constructor takes it and with its options."""
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        options = {} if isinstance(model, GLiClassModel) else self._model_options
        model = load_model(model, self.device, **options)
        known = fitting_labels_tokenizer(model, self._labels_tokenizer)
        self._model, self._labels_tokenizer, self._engine = model, known, None

    @property
    def labels_tokenizer(self) -> Any:
        """Returns the tokenizer of a bi-encoder's label tower, or None; to set one makes another engine."""
        return self._labels_tokenizer

    @labels_tokenizer.setter
    def labels_tokenizer(self, given: Any) -> None:
        self._labels_tokenizer, self._engine = labels_tokenizer_of(self.model.loaded.config, given), None

    @property
    def engine(self) -> Engine:
        """Returns the engine for the settings of now."""
        given = (self.model, self.tokenizer, self.max_length, self.batch_tokens, self.labels_tokenizer)
        engine = self._engine  # another thread may change a setting now
        if engine is None or engine.made_of != given:
            engine = self._engine = Engine(*given)
        return engine

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, max_length={self.max_length})"

    @property
    def device(self) -> torch.device:
        """Returns where the model runs; to set another one moves the model."""
        return self.model.device

    @device.setter
    def device(self, device: str | torch.device | int | None) -> None:
        self.model.to(resolve_device(device, fall_back=True))

    label_token = Fixed(Markers().label)  # the reference's names for the markers of a prompt
    sep_token = Fixed(Markers().sep)
    example_token = Fixed(Markers().example)

    def refresh(self) -> None:
        """Builds the model anew from its checkpoint, or from the live model it was made of.

        Changes of a live model are noticed by themselves, as far as `on_change` and `LiveState` say.
        """
        self.model.refresh()

    def load_adapter(self, adapter_id: str, folder: str | Path) -> None:
        """Loads a LoRA adapter that PEFT saved, for texts that name it in `adapter_ids`.

        It replaces an adapter of the same id. folder: a folder or a repository id.

        Raises CheckpointError where it holds no plain LoRA adapter for this backbone, TypeError for an id or
        a folder of another type, and changes nothing then.
        """
        self.model.load_adapter(adapter_id, folder)

    def unload_adapter(self, adapter_id: str) -> None:
        """Forgets an adapter; ValueError where none of that id is loaded, or a live model has it."""
        self.model.unload_adapter(adapter_id)

    @property
    def adapters(self) -> list[AdapterInfo]:
        """Describes the loaded adapters: id, folder, rank, bytes, and whether the host holds the tensors."""
        return self.model.adapters.described()

    def flatten_labels(self, labels: Any) -> list[str]:
        """Returns labels as results name them: {"topic": ["art"]} gives ["topic.art"]."""
        return flatten_labels(labels, separator=self.label_separator)

    def get_embeddings(
        self, texts: str | Iterable[str], labels: Any, batch_size: int = 8,
        examples: Iterable[Any] | None = None, prompt: str | Iterable[str] | None = None,
        adapter_ids: str | Iterable[str | None] | None = None,
    ) -> list[dict[str, np.ndarray]]:  # fmt: skip
        """Returns per text, in float32: logits [labels], text_embedding [C], class_embeddings [labels, C].

        With pooling "pass", text_embedding keeps one row per token of the prompt. Raises TypeError,
        ValueError and FloatingPointError as a call of `ZeroShotClassificationPipeline` does.
        """
        requests, _ = self._requests(texts, labels, prompt, examples, None, adapters=adapter_ids)
        return self.engine.embed(requests, self.progress_bar, self.on_truncation)

    def prepare_inputs(
        self, texts: Sequence[str], labels: Any, same_labels: bool = False,
        examples: Sequence[Any] | None = None, prompt: str | Sequence[str] | None = None,
    ) -> BatchEncoding:  # fmt: skip
        """Returns the padded tensors that a stock model is called with, on the model's device.

        same_labels: has no effect. Raises TypeError and ValueError as a call of the pipeline does.
        """
        requests, _ = self._requests(texts, labels, prompt, examples, None)
        arguments.refuse_no_texts(requests)
        prompts = [each.prompts[0] for each in self.engine.prepare(requests)]
        inputs = padded_prompts(prompts, self.tokenizer.pad_token_id or 0)
        if self.labels_tokenizer is not None:
            inputs |= padded_labels([own.labels for own in requests], self.labels_tokenizer, self.max_length)
        return BatchEncoding(inputs).to(self.device)

    def prepare(
        self,
        texts: str | Iterable[str],
        labels: Any,
        threshold: Any = 0.5,
        classification_type: str | Iterable[str] | None = None,
        rac_examples: Iterable[Any] | None = None,
        examples: Iterable[Any] | None = None,
        prompt: str | Iterable[str] | None = None,
        return_hierarchical: bool = False,
        first_text: int = 0,
        label_descriptions: Mapping[str, str] | None = None,
        min_score: float | None = None,
        none_label: str | None = None,
        adapter_ids: str | Iterable[str | None] | None = None,
    ) -> Classification:
        """Checks the arguments of a call and returns what the engine reads, and how to answer; runs nothing.

        Arguments and errors are those of a call of `ZeroShotClassificationPipeline`.
        """
        requests, given = self._requests(
            texts, labels, prompt, examples, rac_examples, label_descriptions, first_text, adapter_ids
        )
        types = arguments.classification_types_per_text(
            classification_type, len(requests), self.classification_type
        )
        thresholds = arguments.thresholds_per_text(threshold, [each.names for each in given], types)
        abstains = min_score is not None or none_label is not None
        abstention = Abstention.checked(min_score, none_label, types) if abstains else None
        return Classification(
            requests, given, types, thresholds, abstention, return_hierarchical, self.label_separator
        )

    def _requests(
        self, texts: Any, labels: Any, prompt: Any, examples: Any, rac_examples: Any,
        descriptions: Any = None, first: int = 0, adapters: Any = None,
    ) -> tuple[list[Request], list[Labels]]:  # fmt: skip
        """Returns a request per text, and its labels; messages count texts from `first`."""
        texts = arguments.check_texts(texts, first)
        given = with_descriptions(labels_per_text(labels, len(texts), self.label_separator), descriptions)
        none: list[Any] = [()] * len(texts)
        columns = (
            texts,
            [each.read for each in given],
            arguments.tasks_per_text(prompt, len(texts)),
            none if examples is None else examples_per_text(examples, len(texts)),
            none if rac_examples is None else examples_per_text(rac_examples, len(texts), "rac_examples"),
            [None] * len(texts) if adapters is None else self.model.adapters_per_text(adapters, len(texts)),
        )
        return [Request(*row) for row in zip(*columns, strict=True)], given


class ZeroShotClassificationPipeline(BasePipeline):
    """Does zero-shot classification with the reference's names, arguments and results.

    A text's scores never depend on what else is in the call: they are those of the reference at batch size 1.
    """

    @property
    def pipe(self) -> ZeroShotClassificationPipeline:
        """Returns the pipeline itself; under this name the reference wraps an inner pipeline."""
        return self

    @arguments.passed_on(hugging_face.ITS_OWN, hugging_face.answer)
    def __call__(
        self,
        texts: str | Iterable[str],
        labels: Any,
        threshold: Any = 0.5,
        batch_size: int = 8,
        classification_type: str | Iterable[str] | None = None,
        rac_examples: Iterable[Any] | None = None,
        examples: Iterable[Any] | None = None,
        prompt: str | Iterable[str] | None = None,
        return_hierarchical: bool = False,
        adapter_ids: str | Iterable[str | None] | None = None,
        images: Any = None,
        audio: Any = None,
        *,
        labels_per_pass: LabelsPerPass = None,
        return_info: bool = False,
        first_text: int = 0,
        label_descriptions: Mapping[str, str] | None = None,
        min_score: float | None = None,
        none_label: str | None = None,
        label_permutations: int = 1,
        on_truncation: OnTruncation | None = None,
    ) -> Any:
        """Classifies texts.

        What is given per text may be a list, a tuple, an array, a column or an iterator. A call with
        `candidate_labels`, `multi_label`, `hypothesis_template` or `top_k` is one of `HuggingFacePipeline`;
        where it has `labels`, `classification_type` of the pipeline stands for `multi_label`.

        Args:
            texts: one string or several; an empty string is a valid text.
            labels: a list, a nested dict, or a dict {label: description}, for all texts or one per text.
            threshold: the lowest score that counts for multi-label, in [0, 1], for all texts or per text. A
                dict has one per label; labels that it does not name have 0.5.
            batch_size: has no effect; see `batch_tokens`.
            classification_type: "single-label" or "multi-label", for all texts or per text.
            rac_examples: retrieved examples {"text", "true_labels", "all_labels"}, shared or per text.
            examples: few-shot examples {"text", "labels"}, shared or per text.
            prompt: a task description, for all texts or per text.
            return_hierarchical: returns every score in the shape of the labels, not a list of predictions.
            adapter_ids: the id of the LoRA adapter that a text is read with, for all texts or per text; None:
                the model without one. See `load_adapter`.
            images, audio: what this engine does not have, so None for every text.
            labels_per_pass: scores at most so many labels at a time ("auto": as many as leave half the window
                to the text).
            return_info: returns (results, one `TextInfo` per text).
            first_text: the number by which messages name the first text, for long inputs that come in parts.
            label_descriptions: {label: description}; the prompt has the description and results the label.
            min_score: the lowest score of a best label that is an answer, for single-label.
            none_label: what stands in place of a best label below `min_score`, with its score; default: the
                text has no prediction.
            label_permutations: the logits are the mean over so many orders of the labels, and do not depend
                on the order given. This takes so many times as long.
            on_truncation: "warn", "error" or "ignore", for this call; default: that of the pipeline.

        Returns:
            A list of {"label": str, "score": float} per text: for single-label the best label, for
            multi-label the labels at or above the threshold, in their order. Calibrated models add
            "initial_score".

        Raises:
            TypeError, ValueError: an argument is not as described above, or labels do not fit the window; all
                are of the type `ArgumentError` as well.
            FloatingPointError: the model gave a value that is not finite in float32 either. (A text that
                overflows 16 bit runs again in float32, with a warning.)
        """
        arguments.refuse_unsupported(images=images, audio=audio)
        arguments.check_switches(return_hierarchical=return_hierarchical, return_info=return_info)
        passes = arguments.check_labels_per_pass(labels_per_pass)
        orders = arguments.whole_number(label_permutations, "label_permutations")
        cuts = self.on_truncation if on_truncation is None else arguments.check_on_truncation(on_truncation)
        call = self.prepare(
            texts, labels, threshold, classification_type, rac_examples, examples, prompt,
            return_hierarchical, first_text, label_descriptions, min_score, none_label, adapter_ids,
        )  # fmt: skip
        score = self.engine.score if orders == 1 else partial(score_in_orders, self.engine, orders)
        scored = score(
            call.requests, numbers=range(int(first_text), int(first_text) + len(call.requests)),
            labels_per_pass=passes, progress=self.progress_bar, on_truncation=cuts,
        )  # fmt: skip
        found = call.answers([each.logits for each in scored])
        if not return_info:
            return found
        return found, [TextInfo(each.tokens, each.tokens_cut, each.passes) for each in scored]


# the other names of `gliclass.pipeline`: one pipeline runs all architectures
BaseZeroShotClassificationPipeline = BasePipeline
UniEncoderZeroShotClassificationPipeline = BiEncoderZeroShotClassificationPipeline = (
    EncoderDecoderZeroShotClassificationPipeline
) = DecoderKVZeroShotClassificationPipeline = ZeroShotClassificationPipeline

_LATE = {"ZeroShotClassificationWithChunkingPipeline": "chunking"}
make_lazy(__name__, _LATE, call="pipeline.hugging_face:pipeline")
