"""Drop-in `ZeroShotClassificationPipeline`: it takes texts and labels and returns scored labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gliclass_fast import make_lazy
from gliclass_fast.engine.passes import LabelsPerPass
from gliclass_fast.pipeline import hugging_face
from gliclass_fast.pipeline.base import BasePipeline, passed_on
from gliclass_fast.text import arguments
from gliclass_fast.text.arguments import OnTruncation
from gliclass_fast.text.hierarchy import (
    build_hierarchical_output,
    flatten_hierarchical_labels,
    format_examples_prompt,
    get_best_per_category,
    group_predictions_by_hierarchy,
    parse_hierarchical_prediction,
)
from gliclass_fast.text.results import TextInfo

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


class ZeroShotClassificationPipeline(BasePipeline):
    """Does zero-shot classification with the reference's names, arguments and results.

    A text's scores never depend on what else is in the call: they are those of the reference at batch size 1.
    """

    @property
    def pipe(self) -> ZeroShotClassificationPipeline:
        """Returns the pipeline itself; under this name the reference wraps an inner pipeline."""
        return self

    @passed_on(hugging_face.ITS_OWN, hugging_face.answer)
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

_LATE = {"ZeroShotClassificationWithChunkingPipeline": "chunking"}
make_lazy(__name__, _LATE, call="pipeline.hugging_face:pipeline")
