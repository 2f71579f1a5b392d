"""Drop-in `ZeroShotClassificationPipeline`: it takes texts and labels and returns scored labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, TypeVar, cast

import numpy as np
from torch import Tensor
from transformers import BatchEncoding

from gliclass_fast import make_lazy
from gliclass_fast.engine.engine import Engine
from gliclass_fast.engine.passes import LabelsPerPass
from gliclass_fast.engine.permutations import score_in_orders
from gliclass_fast.engine.scored import Scored
from gliclass_fast.pipeline import hugging_face
from gliclass_fast.pipeline.settings import PipelineSettings
from gliclass_fast.runtime.transfer import uncompiled
from gliclass_fast.text import arguments
from gliclass_fast.text.abstention import Abstention
from gliclass_fast.text.arguments import OnTruncation, checks_names
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
from gliclass_fast.text.padded import pad_prompts, padded_labels
from gliclass_fast.text.prompts import Request
from gliclass_fast.text.results import CheckedCall, TextInfo

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


Method = TypeVar("Method", bound=Callable[..., Any])
# the pieces of requests that are read, each with the place of its text, for so many orders of the labels
Pieces = Callable[[list[Request], int], Iterable[tuple[int, Request]]]


def passed_on(names: Collection[str], to: Callable[..., Any]) -> Callable[[Method], Method]:
    """Passes calls of a method that have one of these arguments on to `to`, which takes the method first."""

    def decorate(method: Method) -> Method:
        @wraps(method)
        def either(self: Any, *positional: Any, **named: Any) -> Any:
            asked = any(name in names for name in named)
            return (partial(to, method) if asked else method)(self, *positional, **named)

        return cast(Method, either)

    return decorate


def current_engine(pipeline: Any, *given: Any) -> Engine:
    """Returns the engine that a pipeline keeps, or another one where that was not made of what is given.

    given: the first arguments of `Engine`, for the settings of now.
    """
    engine: Engine | None = pipeline._engine  # another thread may change a setting now
    if engine is None or engine.made_of != given:
        engine = pipeline._engine = Engine(*given)
    return engine


class BasePipeline(PipelineSettings):
    """Holds what the pipelines share: how a call is checked and scored."""

    @property
    def engine(self) -> Engine:
        """Returns the engine for the settings of now."""
        given = (self._model, self.tokenizer, self.max_length, self.batch_tokens, self._labels_tokenizer)
        return current_engine(self, *given)

    def flatten_labels(self, labels: Any) -> list[str]:
        """Returns labels as results name them: {"topic": ["art"]} gives ["topic.art"]."""
        return flatten_labels(labels, separator=self.label_separator)

    @uncompiled
    @checks_names
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

    @checks_names
    def prepare_inputs(
        self, texts: Sequence[str], labels: Any, same_labels: bool = False,
        examples: Sequence[Any] | None = None, prompt: str | Sequence[str] | None = None,
    ) -> BatchEncoding | dict[str, Tensor]:  # fmt: skip
        """Returns the padded tensors that a stock model is called with, on the model's device.

        They are a BatchEncoding, and for `decoder-kv` a dict, as in the reference.

        same_labels: has no effect. Raises TypeError and ValueError as a call of the pipeline does.
        """
        requests, _ = self._requests(texts, labels, prompt, examples, None)
        arguments.refuse_no_texts(requests)
        prompts = [each.prompts[0] for each in self.engine.prepare(requests)]
        inputs = pad_prompts(prompts, self.tokenizer.pad_token_id or 0)
        if self.labels_tokenizer is not None:
            inputs |= padded_labels([own.labels for own in requests], self.labels_tokenizer, self.max_length)
        batch = BatchEncoding(inputs).to(self.device)
        return batch.data if self.model.loaded.network.inputs_as_dict else batch

    @checks_names
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
    ) -> CheckedCall:
        """Checks the arguments of a call and returns what the engine reads, and how to answer; runs nothing.

        Arguments and errors are those of a call of `ZeroShotClassificationPipeline`.
        """
        arguments.check_switches(return_hierarchical=return_hierarchical)
        requests, given = self._requests(
            texts, labels, prompt, examples, rac_examples, label_descriptions, first_text, adapter_ids
        )
        types = arguments.classification_types_per_text(
            classification_type, len(requests), self.classification_type
        )
        thresholds = arguments.thresholds_per_text(threshold, [each.names for each in given], types)
        abstains = min_score is not None or none_label is not None
        abstention = Abstention.checked(min_score, none_label, types) if abstains else None
        return CheckedCall(
            requests, given, types, thresholds, abstention, return_hierarchical, self.label_separator
        )

    def _scored(
        self, label_permutations: int, on_truncation: OnTruncation | None, labels_per_pass: LabelsPerPass,
        return_info: bool, pieces: Pieces | None = None, **given: Any,
    ) -> tuple[CheckedCall, list[int], list[Scored]]:  # fmt: skip
        """Scores a call; returns it checked, and the place of the text of every piece, and its answer.

        pieces: makes the pieces that are read of the requests, for so many orders of the labels; default: the
        requests themselves. given: the arguments of `prepare`. Raises the errors of a call.
        """
        arguments.check_switches(return_info=return_info)
        orders = arguments.whole_number(label_permutations, "label_permutations")
        cuts = self.on_truncation if on_truncation is None else arguments.check_on_truncation(on_truncation)
        call = self.prepare(**given)
        read = list(enumerate(call.requests) if pieces is None else pieces(call.requests, orders))
        places, first = [place for place, _ in read], int(given.get("first_text", 0))
        score = self.engine.score if orders == 1 else partial(score_in_orders, self.engine, orders)
        scored = score(
            [request for _, request in read], numbers=[first + place for place in places],
            labels_per_pass=labels_per_pass, progress=self.progress_bar, on_truncation=cuts,
        )  # fmt: skip
        return call, places, scored

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

    @uncompiled
    @passed_on(hugging_face.ITS_OWN, hugging_face.answer)
    @checks_names
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
        call, _, scored = self._scored(
            label_permutations, on_truncation, arguments.check_labels_per_pass(labels_per_pass), return_info,
            texts=texts, labels=labels, threshold=threshold, classification_type=classification_type,
            rac_examples=rac_examples, examples=examples, prompt=prompt,
            return_hierarchical=return_hierarchical, first_text=first_text,
            label_descriptions=label_descriptions, min_score=min_score, none_label=none_label,
            adapter_ids=adapter_ids,
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

_LATE = {
    "GLiClassBiEncoder": "model",
    "GLiClassModel": "model",
    "ZeroShotClassificationWithChunkingPipeline": "chunking",
}
make_lazy(__name__, _LATE, call="pipeline.hugging_face:pipeline")
