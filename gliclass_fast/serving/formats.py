"""The formats: what a body says becomes the arguments of a classification, and an answer becomes JSON.

`GLiClassBody` is what gliclass's client sends, `ClassifyBody` is ours, `HuggingFaceBody` is that of zero-shot
classification on Hugging Face's endpoints, `PredictBody` and `RerankBody` are those of Hugging Face's
text-embeddings-inference.
"""

from __future__ import annotations

from dataclasses import fields
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from gliclass_fast.serving.errors import Invalid, TooLarge
from gliclass_fast.serving.service import Answer
from gliclass_fast.serving.settings import Limits, ServeSettings
from gliclass_fast.serving.sizes import label_sizes
from gliclass_fast.text.errors import WrongValue
from gliclass_fast.text.hypotheses import LABEL_ALONE, hypotheses, kind_for, places_in, split_labels
from gliclass_fast.text.predictions import best_first
from gliclass_fast.text.results import Scores, TextInfo

# one wrong entry is enough of an answer: a body may have very many
Strings = Annotated[list[str], Field(fail_fast=True)]
Texts = str | Strings
# what is inside of these is checked by the library, which names the first fault
Labels = (
    Annotated[
        list[Any],
        WithJsonSchema(
            {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "object"}]}}
        ),
    ]
    | dict[str, Any]
)
Number = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Numbers = Annotated[
    list[Any],
    WithJsonSchema({"type": "array", "items": {"anyOf": [{"type": "number"}, {"type": "object"}]}}),
]
Examples = Annotated[  # {"text", "labels"} each, for all texts or a list of them per text
    list[Any], WithJsonSchema({"type": "array", "items": {"type": "object"}})
]
Arguments = dict[str, Any]  # those of `Service.answer`
Kind = Literal["multi-label", "single-label", "multi", "single"]
Right = Literal["Right", "right"]  # the end of a text from which tokens are cut; no request changes it

LONGEST_TEMPLATE = 1000  # characters
UNKNOWN_KEYS = 3  # of a body that get an error each; an answer names no more
SINGLE_LABEL, MULTI_LABEL = "single-label", "multi-label"


class Body(BaseModel):
    """A body, with the types of JSON as they are: no "0.5" for 0.5."""

    model_config = ConfigDict(strict=True)


class GLiClassBody(Body):
    """What gliclass's client sends. A text is answered with a list of predictions, a list with one each."""

    text: Texts | None = None
    texts: Texts | None = Field(None, examples=["The match went to extra time."])
    labels: Labels | None = Field(None, examples=[["sports", "politics"]])
    threshold: Number | None = None
    multi_label: bool | Annotated[list[bool], Field(fail_fast=True)] = True
    examples: Examples | None = Field(
        None, description='Each {"text", "labels"}, for all texts or a list per text.'
    )
    prompt: Texts | None = None
    model: str | None = Field(None, description="The name of a model of the service, where it has several.")
    adapter_id: str | None = None

    def arguments(self, settings: ServeSettings) -> Arguments:
        """Returns the arguments of the classification."""
        kinds = [self.multi_label] if isinstance(self.multi_label, bool) else self.multi_label
        types = [MULTI_LABEL if each else SINGLE_LABEL for each in kinds]
        return {
            "texts": self._given(),
            "labels": self.labels,
            "threshold": settings.threshold if self.threshold is None else self.threshold,
            "classification_type": types[0] if isinstance(self.multi_label, bool) else types,
            "examples": self.examples,
            "prompt": self.prompt,
            "model": self.model,
            "adapter_id": self.adapter_id,
        }

    def answered(self, answer: Answer) -> Any:
        """Returns the JSON of an answer."""
        return answer.results[0] if isinstance(self._given(), str) else answer.results

    def _given(self) -> Texts:
        if self.text and self.texts is not None:  # clients may send both fields, with an empty text
            raise Invalid("give text or texts, not both")
        given = self.text if self.texts is None else self.texts
        if given is None:
            raise Invalid("give text or texts")
        return given


class ClassifyBody(Body):
    """What our own route takes: texts, their labels, and whatever the pipeline takes with them."""

    model_config = ConfigDict(strict=True, extra="forbid")

    texts: Texts = Field(examples=["The match went to extra time."])
    labels: Labels | None = Field(
        None,
        description="For all texts, or a list per text. A dict of strings has descriptions, "
        "{label: description}; any other dict is a hierarchy. Default: the labels of the service.",
        examples=[["sports", "politics"]],
    )
    threshold: Number | Numbers | dict[str, Any] | None = None
    classification_type: Kind | Annotated[list[Kind], Field(fail_fast=True)] = "multi-label"
    examples: Examples | None = Field(
        None, description='Each {"text", "labels"}, for all texts or a list per text.'
    )
    prompt: Texts | None = None
    label_descriptions: dict[str, Any] | None = None
    return_hierarchical: bool = False
    return_info: bool = False
    min_score: Number | None = None
    none_label: str | None = None
    model: str | None = Field(None, description="The name of a model of the service, where it has several.")
    adapter_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_few_unknown_keys(cls, given: Any) -> Any:
        """Leaves out all but the first unknown keys, as each makes an error and a body may have very many."""
        known = cls.model_fields
        if not isinstance(given, dict) or len(given) <= len(known):
            return given
        shown = set(islice((key for key in given if key not in known), UNKNOWN_KEYS))
        return {key: value for key, value in given.items() if key in known or key in shown}

    def arguments(self, settings: ServeSettings) -> Arguments:
        """Returns the arguments of the classification."""
        arguments = self.model_dump(exclude={"return_info"})
        if self.threshold is None:
            arguments["threshold"] = settings.threshold
        return arguments

    def answered(self, answer: Answer) -> Any:
        """Returns the JSON of an answer."""
        info = None
        if self.return_info:
            names = [field.name for field in fields(TextInfo)]
            info = [{name: getattr(each.scored, name) for name in names} for each in answer.done]
        timing = {
            "queue_ms": answer.queue_seconds * 1e3,
            "tokenize_ms": answer.tokenize_seconds * 1e3,
            "forward_ms": answer.forward_seconds * 1e3,
            "total_ms": answer.total_seconds * 1e3,
        }
        return {
            "results": answer.results,
            "info": info,
            "tokens_cut": answer.tokens_cut,
            "timing": {name: round(value, 3) for name, value in timing.items()},
        }


class HuggingFaceParameters(Body):
    """The parameters of zero-shot classification on Hugging Face."""

    candidate_labels: Texts | None = Field(default=None, examples=[["sports", "politics"]])
    multi_label: bool = False
    hypothesis_template: Annotated[str, Field(max_length=LONGEST_TEMPLATE)] = LABEL_ALONE


class HuggingFaceBody(Body):
    """What Hugging Face's zero-shot classification takes; the answer has all labels, the best first."""

    inputs: Texts = Field(examples=["The match went to extra time."])
    parameters: HuggingFaceParameters = Field(default_factory=HuggingFaceParameters)

    def arguments(self, settings: ServeSettings) -> Arguments:
        """Returns the arguments of the classification."""
        given, template = self.parameters.candidate_labels, self.parameters.hypothesis_template
        if given is not None:
            given = _candidates(given, settings.limits)
        labels = settings.labels if given is None else given
        return {
            "texts": self.inputs,
            "labels": given,
            "label_descriptions": _hypotheses(template, given, settings.limits),
            "classification_type": kind_for(label_sizes(labels)[0], self.parameters.multi_label),
        }

    def answered(self, answer: Answer) -> Any:
        """Returns the JSON of an answer."""
        ranked = [_ranked(each) for each in answer.scores]
        return ranked[0] if isinstance(self.inputs, str) else ranked


class PredictBody(Body):
    """What text-embeddings-inference's /predict takes; the labels are those of the service."""

    inputs: Texts | Annotated[list[Strings], Field(fail_fast=True)] = Field(
        description="A text, or for several of them a list with a list of one text for each.",
        examples=["The match went to extra time."],
    )
    raw_scores: bool = False
    truncate: bool | None = False
    truncation_direction: Right = "Right"

    def arguments(self, settings: ServeSettings) -> Arguments:
        """Returns the arguments of the classification."""
        if settings.labels is None:
            raise Invalid("/predict needs labels of the service: start it with --labels-file")
        kind = kind_for(label_sizes(settings.labels)[0])
        return {"texts": self._texts(), "labels": settings.labels, "classification_type": kind}

    def answered(self, answer: Answer) -> Any:
        """Returns the JSON of an answer."""
        ranked = [
            [{"score": each["score"], "label": each["label"]} for each in _ranked(scores)]
            for scores in _raw(answer, self.raw_scores)
        ]
        return ranked if isinstance(self.inputs, list) and isinstance(self.inputs[0], list) else ranked[0]

    def _texts(self) -> list[str]:
        inputs = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        if not inputs:
            raise Invalid("inputs is empty")
        if isinstance(inputs[0], str):  # one text in brackets; two would be one pair, as of a cross-encoder
            inputs = [inputs]  # type: ignore[list-item]
        if any(len(each) != 1 for each in inputs):
            raise Invalid('a pair of texts has no meaning here: send several texts as [["a"], ["b"]]')
        return [text for [text] in inputs]


class RerankBody(Body):
    """What text-embeddings-inference's /rerank takes: the query is the label of every text."""

    query: str = Field(examples=["How is the weather?"])
    texts: Strings = Field(min_length=1, examples=[["It rains.", "The match went to extra time."]])
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool | None = False
    truncation_direction: Right = "Right"

    def arguments(self, settings: ServeSettings) -> Arguments:
        """Returns the arguments of the classification."""
        return {"texts": self.texts, "labels": [self.query], "classification_type": MULTI_LABEL}

    def answered(self, answer: Answer) -> Any:
        """Returns the JSON of an answer."""
        rows = [
            {"index": index, "score": scores.values[0]} | ({"text": text} if self.return_text else {})
            for index, (text, scores) in enumerate(
                zip(self.texts, _raw(answer, self.raw_scores), strict=True)
            )
        ]
        return best_first(rows)


def _candidates(given: str | list[str], limits: Limits) -> list[str]:
    """Returns the labels of a list or of a string with commas; raises Invalid where there are too many."""
    count = given.count(",") if isinstance(given, str) else len(given)  # a comma may end the last label
    if count > limits.labels:
        raise Invalid(f"candidate_labels has more than the {limits.labels} labels that are allowed")
    return split_labels(given) if isinstance(given, str) else given


def _hypotheses(template: str, labels: list[str] | None, limits: Limits) -> dict[str, str] | None:
    """Returns what is read for every label, None for the label alone; raises Invalid or TooLarge."""
    if template == LABEL_ALONE:
        return None
    if labels is None:
        raise Invalid("hypothesis_template goes with candidate_labels")
    try:
        further = max(0, places_in(template) - 1)  # a place takes about the characters of its braces
        characters = len(labels) * len(template) + further * sum(map(len, labels))
        if characters > limits.characters:
            raise TooLarge(
                f"hypothesis_template has {characters} characters for {len(labels)} labels; at most "
                f"{limits.characters} are allowed"
            )
        return hypotheses(template, labels)
    except WrongValue as error:
        raise Invalid(str(error)) from None


def _raw(answer: Answer, raw: bool) -> list[Scores]:
    """Returns every score of every text; the logits themselves where raw scores are asked for."""
    if not raw:
        return answer.scores
    logits = zip(answer.call.labels, answer.logits, strict=True)
    return [Scores(labels.names, own[0].tolist()) for labels, own in logits]


def _ranked(scores: Scores) -> list[dict[str, Any]]:
    return best_first(
        {"label": label, "score": score} for label, score in zip(scores.labels, scores.values, strict=True)
    )
