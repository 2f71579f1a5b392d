"""The reader of `decoder-kv`: the labels follow the text, and each is in front of its marker.

    {task prompt}{examples}{text}<<SEP>>a<<LABEL>>b<<LABEL>><<SEP>>

There are no special tokens. What stands before the first <<SEP>> is the context, what follows it the label
section. Both are tokenised on their own, so that a context can be kept while labels change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np

from gliclass_fast.batch import EncodedPrompt, consecutive_spans
from gliclass_fast.config import ModelConfig
from gliclass_fast.text.errors import LabelsDoNotFit
from gliclass_fast.text.examples import format_examples, format_retrieved
from gliclass_fast.text.prompts import Markers, Request
from gliclass_fast.text.tokenizer import CACHED_LABEL_LISTS, MarkedTokenizer

LEAST_CONTEXT = 1  # tokens


@dataclass(frozen=True, slots=True)
class Section:
    """Holds the label section of one list of labels, without the <<SEP>> in front of it."""

    token_ids: np.ndarray  # int32
    spans: np.ndarray  # int32 [labels, 2], each with its marker at the end


def labels_last(
    context: np.ndarray, sep_id: int, section: np.ndarray, spans: np.ndarray, **rest: Any
) -> EncodedPrompt:
    """Makes the prompt of a context and a label section; `spans` are those of the labels in the section."""
    ids = np.concatenate((context, np.array([sep_id], dtype=np.int32), section))
    return _with_section(ids, EncodedPrompt(section, 0, spans), **rest)


def prompt_of_section_ids(ids: np.ndarray, config: ModelConfig) -> EncodedPrompt:
    """Returns the prompt of ids [tokens] that a caller made, which has no label where no marker is in them.

    The label section follows the last <<SEP>> before the labels; where there is none, it is all ids. Its own
    last <<SEP>> stands for the text, wherever it is, and a section without one has an empty text part.
    """
    ends = np.flatnonzero(ids == config.class_token_index) + 1
    if not len(ends):
        return EncodedPrompt.of_text(ids, 0)
    behind_seps = np.flatnonzero(ids == config.sep_token_index) + 1
    start = int(behind_seps[behind_seps < ends[0]].max(initial=0))
    spans = consecutive_spans(np.diff(ends, prepend=start).tolist())
    text_end = max(int(behind_seps.max(initial=0)) - start, 0)
    return _with_section(ids, EncodedPrompt(ids[start:], 0, spans, text_end=text_end))


def _with_section(ids: np.ndarray, section: EncodedPrompt, **rest: Any) -> EncodedPrompt:
    """Returns the prompt of ids that end with those of a section, which follows the text part or is all."""
    start = len(ids) - len(section.token_ids)
    return EncodedPrompt(
        token_ids=ids,
        text_start=0,
        label_spans=section.label_spans + start,
        text_end=start or None,  # where the section is all ids, the text part is all of them too
        label_prompt=section,
        holds_label_prompt=True,
        **rest,
    )


class LabelsLast:
    """Reads text and labels in one sequence, the labels behind the text."""

    longest: int | None = None

    def __init__(self, tokenizer: Any, config: ModelConfig) -> None:
        """Takes a fast tokenizer; raises ValueError where it does not belong to the checkpoint."""
        self._tokenizer = MarkedTokenizer(tokenizer)
        self.markers = self._tokenizer.markers
        for marker, option in (
            (self.markers.label, "class_token_index"),
            (self.markers.sep, "sep_token_index"),
        ):
            self._tokenizer.check_marker(marker, option, getattr(config, option))
        self.sep_id = config.sep_token_index
        self.section = lru_cache(maxsize=CACHED_LABEL_LISTS)(self._tokenize_section)

    def encode(self, requests: Sequence[Request], window: int) -> list[EncodedPrompt]:
        """Returns sequences of at most `window` tokens: what does not fit shortens the context."""
        contexts = self.contexts([context_of(each, self.markers) for each in requests])
        found = []
        for request, ids in zip(requests, contexts, strict=True):
            section = self.section(request.labels)
            room = window - 1 - len(section.token_ids)
            if room < LEAST_CONTEXT:
                needs = f"with one token of text they need {window - room + LEAST_CONTEXT}"
                raise LabelsDoNotFit(len(request.labels), window, needs)
            cut = max(0, len(ids) - room)
            found.append(
                labels_last(
                    self._tokenizer.cut(ids, room),
                    self.sep_id,
                    section.token_ids,
                    section.spans,
                    tokens_cut=cut,
                )
            )
        return found

    def contexts(self, strings: list[str]) -> list[np.ndarray]:
        """Returns the ids of contexts, or of parts of them, int32."""
        return [np.array(ids, dtype=np.int32) for ids in self._tokenizer.pieces(strings)]

    def label_tokens(self, labels: Sequence[str]) -> list[int]:
        return np.diff(self.section(tuple(labels)).spans)[:, 0].tolist()  # type: ignore[no-any-return]

    def label_budget(self, window: int) -> int:
        return (window - 2) // 2

    def token_starts(self, text: str) -> list[int]:
        return self._tokenizer.token_starts(text)

    def _tokenize_section(self, labels: tuple[str, ...]) -> Section:
        label, sep = self.markers.label, self.markers.sep
        # every piece starts behind a marker, as in the whole section
        pieces = [ids[1:] for ids in self._tokenizer.pieces([f"{sep}{text}{label}" for text in labels])]
        spans = consecutive_spans([len(piece) for piece in pieces])
        spans.flags.writeable = False  # prompts share it
        return Section(np.array([*chain.from_iterable(pieces), self.sep_id], dtype=np.int32), spans)


def context_of(request: Request, markers: Markers) -> str:
    """Returns {task prompt}{examples}{text}{retrieved}."""
    shots = format_examples(request.examples, markers)
    return f"{request.task}{shots}{request.text}{format_retrieved(request.retrieved, markers)}"
