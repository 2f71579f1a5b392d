"""Drop-in `ZeroShotClassificationWithChunkingPipeline`: it reads long texts in chunks and labels in groups.

The reference runs one forward pass per chunk and label group; here all of them go through the engine as one
set of batches. Per-text prompts and examples stay with their text (the reference aligns them by their place
in a batch). Every chunk gets all retrieved examples of its text (the reference cuts the text that they are
part of).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np

from gliclass_fast.engine.permutations import in_orders
from gliclass_fast.pipeline import BasePipeline
from gliclass_fast.pipeline.checked_attributes import Setting
from gliclass_fast.runtime.transfer import uncompiled
from gliclass_fast.text import arguments, chunks, results
from gliclass_fast.text.arguments import OnTruncation, checks_names, whole_number
from gliclass_fast.text.errors import WrongValue
from gliclass_fast.text.predictions import Prediction
from gliclass_fast.text.prompts import Request

ChunkTokens = int | Literal["auto"] | None


def _chunk_tokens(value: Any) -> ChunkTokens:
    if value is None:
        return None
    return "auto" if isinstance(value, str) and value == "auto" else whole_number(value, "chunk_tokens")


def _overlap_tokens(value: Any) -> int | None:
    return None if value is None else whole_number(value, "overlap_tokens", least=0)


class ZeroShotClassificationWithChunkingPipeline(BasePipeline):
    """Classifies texts of any length, with the reference's names, arguments and results."""

    text_chunk_size: Setting[int] = Setting(partial(whole_number, name="text_chunk_size"))
    text_chunk_overlap: Setting[int] = Setting(partial(whole_number, name="text_chunk_overlap", least=0))
    labels_chunk_size: Setting[int] = Setting(partial(whole_number, name="labels_chunk_size"))
    chunk_tokens: Setting[ChunkTokens] = Setting(_chunk_tokens)
    overlap_tokens: Setting[int | None] = Setting(_overlap_tokens)

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        max_classes: int = 25,
        max_length: int | None = 1024,
        classification_type: str = "multi-label",
        device: Any = None,
        progress_bar: bool = True,
        text_chunk_size: int = 8192,
        text_chunk_overlap: int = 256,
        labels_chunk_size: int = 8,
        label_separator: str = ".",
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
        warm_up: Sequence[int] = (),
        on_truncation: OnTruncation = "warn",
        chunk_tokens: ChunkTokens = None,
        overlap_tokens: int | None = None,
        **model_options: Any,
    ) -> None:
        """Takes chunk sizes and overlap of texts in characters, and labels_chunk_size in labels per pass.

        Args:
            chunk_tokens: cuts texts by tokens, so many at most, and not by characters. "auto": as many as the
                window has room for beside the labels, the prompt and the examples, so that nothing is cut.
            overlap_tokens: tokens that neighbours share, about; default: an eighth of a chunk.
        """
        super().__init__(
            model, tokenizer, max_classes, max_length, classification_type, device, progress_bar,
            label_separator, batch_tokens, labels_tokenizer, warm_up, on_truncation, **model_options,
        )  # fmt: skip
        self.text_chunk_size, self.text_chunk_overlap = text_chunk_size, text_chunk_overlap
        self.labels_chunk_size = labels_chunk_size
        self.chunk_tokens, self.overlap_tokens = _token_sizes(chunk_tokens, overlap_tokens)

    @checks_names
    def chunk_text(self, text: str, chunk_size: int | None = None, overlap: int | None = None) -> list[str]:
        """Cuts a text into pieces of `chunk_size` characters, of which neighbours share `overlap` characters.

        Raises TypeError for arguments of another type, and ValueError unless 0 <= overlap < chunk_size, where
        a text is longer than a chunk.
        """
        text = arguments.plain_string(text, "text")
        size = self.text_chunk_size if chunk_size is None else whole_number(chunk_size, "chunk_size", 0)
        shared = self.text_chunk_overlap if overlap is None else whole_number(overlap, "overlap", 0)
        return chunks.by_characters(text, size, shared)

    @uncompiled
    @checks_names
    def __call__(
        self,
        texts: str | Iterable[str],
        labels: Any,
        threshold: Any = 0.5,
        batch_size: int = 8,
        labels_chunk_size: int | None = None,
        text_chunk_size: int | None = None,
        text_chunk_overlap: int | None = None,
        rac_examples: Iterable[Any] | None = None,
        examples: Iterable[Any] | None = None,
        prompt: str | Iterable[str] | None = None,
        return_hierarchical: bool = False,
        *,
        adapter_ids: str | Iterable[str | None] | None = None,
        chunk_tokens: ChunkTokens = None,
        overlap_tokens: int | None = None,
        return_info: bool = False,
        label_descriptions: Mapping[str, str] | None = None,
        min_score: float | None = None,
        none_label: str | None = None,
        label_permutations: int = 1,
        on_truncation: OnTruncation | None = None,
    ) -> Any:
        """Classifies texts; the sizes in characters and labels given here stay set, as in the reference.

        Those of a call that raises an error do not stay.

        Arguments that `ZeroShotClassificationPipeline` has too mean the same here. `chunk_tokens` and
        `overlap_tokens` count for this call; the default is what the constructor was given. A call that has
        `text_chunk_size` cuts by characters, whatever that was; only there `text_chunk_overlap` has a place.

        Returns a list of predictions per text: for single-label the best label, for multi-label the labels at
        or above the threshold, best first. A text of several chunks gets the best score of each label over
        its chunks; single-label scores are then rescaled to sum to 1. A `TextInfo` counts tokens and passes
        over all chunks.

        Raises TypeError, ValueError and FloatingPointError as `ZeroShotClassificationPipeline` does.
        """
        by_characters = text_chunk_size is not None or text_chunk_overlap is not None
        if by_characters and (chunk_tokens is not None or overlap_tokens is not None):
            raise WrongValue(
                "give text_chunk_size and text_chunk_overlap, or chunk_tokens and overlap_tokens, not both"
            )
        to_stay = {
            name: whole_number(value, name, least=lowest)
            for name, value, lowest in (
                ("labels_chunk_size", labels_chunk_size, 1),
                ("text_chunk_size", text_chunk_size, 1),
                ("text_chunk_overlap", text_chunk_overlap, 0),
            )
            if value is not None
        }
        group = to_stay.get("labels_chunk_size", self.labels_chunk_size)
        characters = to_stay.get("text_chunk_size"), to_stay.get("text_chunk_overlap")
        size, shared = None, None
        if text_chunk_size is None:  # one of this call counts, and not the constructor's tokens
            size, shared = _token_sizes(
                self.chunk_tokens if chunk_tokens is None else chunk_tokens,
                self.overlap_tokens if overlap_tokens is None else overlap_tokens,
            )
        if text_chunk_overlap is not None and size is not None:
            raise WrongValue(
                "text_chunk_overlap is for chunks of characters: give text_chunk_size too, or overlap_tokens"
            )

        call, of_text, counts = self._scored_chunks(
            group, characters, size, shared, label_permutations, on_truncation, return_info, texts=texts,
            labels=labels, threshold=threshold, rac_examples=rac_examples, examples=examples, prompt=prompt,
            return_hierarchical=return_hierarchical, label_descriptions=label_descriptions,
            min_score=min_score, none_label=none_label, adapter_ids=adapter_ids,
        )  # fmt: skip
        vars(self).update(to_stay)  # only now, so that those of a refused call do not stay
        merged = [
            replace(parts[0], initial=None)  # as in the reference, a label that is given twice stays twice
            if len(parts) == 1
            else results.merged(parts, kind, self.aggregate_chunk_scores)
            for parts, kind in zip(of_text, call.types, strict=True)
        ]
        found = [call.answer(place, each, by_score=True) for place, each in enumerate(merged)]
        if not return_info:
            return found
        return found, [results.TextInfo(*map(int, each)) for each in counts]

    @checks_names
    def process_single_text(
        self,
        text: str,
        labels: Sequence[str],
        threshold: float | None = 0.5,
        examples: Iterable[Any] | None = None,
        prompt: str | None = None,
    ) -> tuple[list[Prediction], dict[str, float]]:
        """Returns the predictions of one text, and the score of every label; errors are those of a call."""
        unused = self.classification_type == "single-label" and threshold is None
        least = 0.0 if unused else arguments.score_between_0_and_1(threshold, "threshold")
        names = arguments.as_list(labels, "labels", "a list of strings")
        size, shared = _token_sizes(self.chunk_tokens, self.overlap_tokens)
        call, [parts], _ = self._scored_chunks(
            self.labels_chunk_size, (None, None), size, shared, texts=[text], labels=names, threshold=least,
            examples=examples, prompt=prompt, return_hierarchical=False,
        )  # fmt: skip
        scores = results.merged(parts, call.types[0], self.aggregate_chunk_scores)
        return call.answer(0, scores, by_score=True), dict(zip(scores.labels, scores.values, strict=True))

    def aggregate_chunk_scores(
        self, chunk_scores: Iterable[Mapping[str, float]], labels: Sequence[str]
    ) -> dict[str, float]:
        """Returns the best score of every label over the chunks of a text, 0 where no chunk has it."""
        chunks_of = list(chunk_scores)
        return {label: max([0.0, *(each.get(label, 0.0) for each in chunks_of)]) for label in labels}

    def _scored_chunks(
        self,
        group: int,
        characters: tuple[int | None, int | None],
        size: ChunkTokens,
        shared: int | None,
        label_permutations: int = 1,
        on_truncation: OnTruncation | None = None,
        return_info: bool = False,
        **given: Any,
    ) -> tuple[results.CheckedCall, list[list[results.Scores]], list[np.ndarray]]:
        """Returns a call, checked, and per text the scores of its chunks and the numbers of a `TextInfo`.

        characters, size, shared: how `_pieces` cuts a text. given: the arguments of `prepare`.
        """

        def pieces(requests: list[Request], orders: int) -> Iterator[tuple[int, Request]]:
            self.engine.follow_model()  # the chunks are made by its tokenizer and window
            for index, request in enumerate(requests):
                for piece in self._pieces(request, characters, size, shared, group, orders):
                    yield index, replace(request, text=piece)

        call, places, scored = self._scored(
            label_permutations, on_truncation, group, return_info, pieces, **given
        )
        scores = results.scores_of(
            [call.labels[index].names for index in places],
            [each.logits for each in scored],
            [call.types[index] for index in places],
        )
        of_text: list[list[results.Scores]] = [[] for _ in call.requests]
        counts = [np.zeros(3, dtype=np.int64) for _ in call.requests]
        for index, own, each in zip(places, scores, scored, strict=True):
            of_text[index].append(own)
            counts[index] += (each.tokens, each.tokens_cut, each.passes)
        return call, of_text, counts

    def _pieces(
        self,
        request: Request,
        characters: tuple[int | None, int | None],
        size: ChunkTokens,
        shared: int | None,
        group: int,
        orders: int,
    ) -> list[str]:
        """Returns the chunks of a text, by characters (size and overlap) unless there is a size in tokens."""
        if size is None:
            return self.chunk_text(request.text, *characters)
        starts = self.engine.reader.token_starts(request.text)
        if size == "auto":
            return self._fitting_pieces(request, starts, shared, group, orders)

        def excess(piece: str) -> int:
            return len(self.engine.reader.token_starts(piece)) - size

        return chunks.by_tokens(request.text, starts, size, size // 8 if shared is None else shared, excess)

    def _fitting_pieces(
        self, request: Request, starts: list[int], shared: int | None, group: int, orders: int
    ) -> list[str]:
        """Returns chunks of which the window cuts nothing, whichever group of labels they are read with."""
        engine = self.engine
        reordered = [request] if orders == 1 else in_orders(request, orders)
        parts = [replace(part, text="") for each in reordered for part in engine.passes(each, group)]
        empty = engine.encode(parts)
        tokens = [len(prompt.token_ids) for prompt in empty]
        tightest = tokens.index(max(tokens))
        size = engine.window - tokens[tightest]
        if size < 1:
            raise WrongValue(
                f"the labels, the prompt and the examples fill the window of {engine.window} tokens: "
                "chunk_tokens='auto' finds no room for text"
            )

        def excess(piece: str) -> int:
            [prompt] = engine.encode([replace(parts[tightest], text=piece)])
            return prompt.tokens_cut - empty[tightest].tokens_cut

        return chunks.by_tokens(request.text, starts, size, size // 8 if shared is None else shared, excess)


def _token_sizes(size: Any, shared: Any) -> tuple[ChunkTokens, int | None]:
    """Returns both sizes in tokens, checked."""
    size, shared = _chunk_tokens(size), _overlap_tokens(shared)
    if shared is not None:
        if size is None:
            raise WrongValue("overlap_tokens is for chunks of tokens: give chunk_tokens too")
        if size != "auto" and shared >= size:
            raise WrongValue(f"overlap_tokens must be below chunk_tokens, got {shared} and {size}")
    return size, shared
