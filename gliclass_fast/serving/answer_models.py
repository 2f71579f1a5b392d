"""The models of answers: they describe JSON in the OpenAPI description, and no answer is checked by them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Described(BaseModel):
    """A part of an answer, with no other keys than its own."""

    model_config = ConfigDict(extra="forbid")


class Prediction(Described):
    """A label with its score, from 0 to 1 unless a raw score was asked for."""

    label: str
    score: float
    initial_score: float | None = Field(None, description="Before calibration, where a model has it.")


Predictions = list[Prediction] | list[list[Prediction]]  # of one text, or of a list of texts


class Ranked(Described):
    """A text by its place in the request, with its score as of a prediction."""

    index: int
    score: float
    text: str | None = Field(None, description="With return_text.")


class Tokens(Described):
    """The tokens of a text that ran, those that the window left no room for, and the passes."""

    tokens: int
    tokens_cut: int
    passes: int


class Timing(Described):
    """Milliseconds, of which queue, tokenizer and network are parts of the total."""

    queue_ms: float
    tokenize_ms: float
    forward_ms: float
    total_ms: float


class ClassifyAnswer(Described):
    """What /classify answers, in the order of the texts."""

    results: list[list[Prediction] | dict[str, Any]] = Field(
        description="A text's predictions; with return_hierarchical its scores in the shape of the labels."
    )
    info: list[Tokens] | None = Field(description="Per text, with return_info.")
    tokens_cut: int = Field(description="Of all texts.")
    timing: Timing
