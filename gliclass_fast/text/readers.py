"""Readers: they turn requests into token sequences. Each architecture has the one it was trained with.

Uni-encoders read text and labels together, in one of two orders:

prompt first:  <<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}{text}{examples}
text first:    {text}<<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}{examples}

Bi-encoders read texts without labels, and fused ones read a bare <<LABEL>> for each label. Encoder-decoders
read text and labels as two sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.config import ModelConfig
from gliclass_fast.text.errors import WrongValue
from gliclass_fast.text.examples import format_examples, format_retrieved
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer
from gliclass_fast.text.prompts import Markers, Prompt, Request
from gliclass_fast.text.tokenizer import PromptTokenizer, SequenceTokenizer

logger = logging.getLogger(__name__)

# gives the vectors of every list of labels, [labels, C], for architectures that read labels on their own
LabelVectors = Callable[[Sequence[tuple[str, ...]]], list[Tensor]]


class Reader(Protocol):
    """Says what an engine asks of a reader."""

    @property
    def longest(self) -> int | None:
        """Returns the tokens of the longest sequence that the tokenizer allows now, None for any number."""
        ...

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        """Returns sequences of at most `window` tokens; raises ValueError where labels do not fit."""
        ...

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        """Counts the tokens that every label takes of a window."""
        ...

    def label_budget(self, window: int) -> int:
        """Counts the tokens for labels that leave half the window to a text in the same sequence."""
        ...

    def token_starts(self, text: str) -> list[int]:
        """Returns the place in a text of the first character of each of its tokens."""
        ...


class OneSequence:
    """Reads text and labels together."""

    longest: int | None = None

    def __init__(self, tokenizer: Any, config: ModelConfig) -> None:
        self._tokenizer, self._prompt_first = PromptTokenizer(tokenizer, config), config.prompt_first

    def prompt(self, request: Request) -> Prompt:
        """Returns the prompt of a request."""
        return build_prompt(request, self._tokenizer.markers, self._prompt_first)

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        return self._tokenizer.encode([self.prompt(each) for each in requests], window)

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        return self._tokenizer.label_tokens(labels)

    def label_budget(self, window: int) -> int:
        return self._tokenizer.room(window) // 2

    def token_starts(self, text: str) -> list[int]:
        return self._tokenizer.token_starts(text)


class SeparatedLabels:
    """Reads the text, then every label with a [LAB] token behind it, as GliZNet does."""

    def __init__(self, tokenizer: Any, lab_token_id: int, needs_label_tokens: bool) -> None:
        """Takes the tokenizer of a checkpoint.

        Args:
            tokenizer: a GliZNETTokenizer or the fast tokenizer that it would wrap, else ValueError.
            lab_token_id: the id that config.json gives; ValueError where the tokenizer has another.
            needs_label_tokens: whether a label without tokens is refused.
        """
        given = isinstance(tokenizer, GliZNETTokenizer)
        self._tokenizer = tokenizer if given else GliZNETTokenizer(tokenizer)
        self._needs_label_tokens = needs_label_tokens
        if self._tokenizer.lab_token_id != lab_token_id:
            raise ValueError(
                f"the tokenizer does not belong to this checkpoint: its {self._tokenizer.lab_token} has id "
                f"{self._tokenizer.lab_token_id}, but config.json says lab_token_id={lab_token_id}"
            )

    @property
    def longest(self) -> int | None:
        return self._tokenizer.max_length  # it may be set between calls

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        if any(each.task or each.examples or each.retrieved for each in requests):
            raise WrongValue("GliZNet takes a text and labels alone: no prompt, no examples")
        encoded = self._tokenizer.encode(
            [each.text for each in requests], [each.labels for each in requests], window
        )
        if self._needs_label_tokens and any((np.diff(each.label_spans) == 1).any() for each in encoded):
            raise WrongValue("a label has no tokens, of which this checkpoint takes the mean")
        return encoded

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        return [len(ids) + 1 for ids in self._tokenizer.labels(tuple(labels))]

    def label_budget(self, window: int) -> int:
        return (window - 2) // 2

    def token_starts(self, text: str) -> list[int]:
        return self._tokenizer.token_starts(text)


class TwoSequences:
    """Reads text and labels apart, one in an encoder and the other in a decoder."""

    longest: int | None = None

    def __init__(self, tokenizer: Any, config: ModelConfig) -> None:
        self._tokenizer = PromptTokenizer(tokenizer, config)
        self.label_tokens, self.label_budget = self._tokenizer.label_tokens, self._tokenizer.room
        self.token_starts = self._tokenizer.token_starts

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        markers = self._tokenizer.markers
        texts = self._tokenizer.whole([full_text(each, markers) for each in requests], window)
        labels = self._tokenizer.encode([build_label_prompt(each, markers) for each in requests], window)
        return [
            EncodedPrompt.of_text(ids, own.num_labels, tokens_cut=cut + own.tokens_cut, label_prompt=own)
            for (ids, cut), own in zip(texts, labels, strict=True)
        ]


class TextAlone:
    """Reads the text without its labels, which come as vectors."""

    longest: int | None = None

    def __init__(self, tokenizer: Any, label_vectors: LabelVectors) -> None:
        self._tokenizer, self._label_vectors = SequenceTokenizer(tokenizer), label_vectors
        self._warned = False

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        if not self._warned and any(each.examples for each in requests):
            self._warned = True
            logger.warning("bi-encoders read no examples: they are left out, as by the reference")
        texts = self._tokenizer.whole([plain_text(each) for each in requests], window)
        vectors = self._label_vectors([each.labels for each in requests])
        return [
            EncodedPrompt.of_text(ids, len(own), tokens_cut=cut, label_vectors=own)
            for (ids, cut), own in zip(texts, vectors, strict=True)
        ]

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        return [0] * len(labels)

    def label_budget(self, window: int) -> int:
        return window

    def token_starts(self, text: str) -> list[int]:
        return self._tokenizer.token_starts(text)


class FusedSequence(OneSequence):
    """Reads the text with a bare <<LABEL>> for every label, which its vector replaces."""

    def __init__(self, tokenizer: Any, config: ModelConfig, label_vectors: LabelVectors) -> None:
        super().__init__(tokenizer, config)
        self._label_vectors = label_vectors

    def prompt(self, request: Request) -> Prompt:
        return build_fused_prompt(request, self._tokenizer.markers, self._prompt_first)

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        encoded = super().encode(requests, window)
        vectors = self._label_vectors([each.labels for each in requests])
        return [replace(each, label_vectors=own) for each, own in zip(encoded, vectors, strict=True)]

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        return [1] * len(labels)


def build_prompt(request: Request, markers: Markers, prompt_first: bool) -> Prompt:
    """Builds the prompt of a text and its labels, in one of the two orders above."""
    text, shots = _with_examples(request, markers)
    has_example = bool(shots) or any(example.get("true_labels") for example in request.retrieved)
    if prompt_first:
        return Prompt(request.labels, "", f"{markers.sep}{request.task}{text}{shots}", has_example)
    return Prompt(request.labels, text, f"{markers.sep}{request.task}{shots}", has_example)


def build_fused_prompt(request: Request, markers: Markers, prompt_first: bool) -> Prompt:
    """Builds {task prompt} <<LABEL>><<LABEL>><<SEP>>{text}{examples}, or puts the text in front of all."""
    text, shots = _with_examples(request, markers)
    task = f"{request.task} " if request.task else ""
    bare = ("",) * len(request.labels)
    if prompt_first:
        return Prompt(bare, task, f"{markers.sep}{text}{shots}", bool(shots))
    return Prompt(bare, text + task, f"{markers.sep}{shots}", bool(shots))


def build_label_prompt(request: Request, markers: Markers) -> Prompt:
    """Builds <<LABEL>>a<<LABEL>>b<<SEP>>{task prompt}."""
    return Prompt(request.labels, "", f"{markers.sep}{request.task}", has_example=False)


def full_text(request: Request, markers: Markers) -> str:
    """Returns {text}{examples}, as encoder-decoders read it."""
    return "".join(_with_examples(request, markers))


def plain_text(request: Request) -> str:
    """Returns {task prompt} {text}, as bi-encoders read it; their reference leaves examples out."""
    text, _ = _with_examples(replace(request, examples=()), Markers())
    return f"{request.task} {text}" if request.task else text


def _with_examples(request: Request, markers: Markers) -> tuple[str, str]:
    """Returns the text with its retrieved examples behind it, and the few-shot examples."""
    if not request.retrieved and not request.examples:
        return request.text, ""
    text = request.text + format_retrieved(request.retrieved, markers)
    return text, format_examples(request.examples, markers)
