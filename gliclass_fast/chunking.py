"""Drop-in `ZeroShotClassificationWithChunkingPipeline`: it reads long texts in chunks and labels in groups.

The reference runs one forward pass per chunk and label group; here all of them go through the engine as one
set of batches. Per-text prompts and examples stay with their text (the reference aligns them by their place
in a batch). Every chunk gets all retrieved examples of its text (the reference cuts the text that they are
part of).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gliclass_fast.pipeline import BasePipeline
from gliclass_fast.text import arguments, results


class ZeroShotClassificationWithChunkingPipeline(BasePipeline):
    """Classifies texts of any length, with the reference's names, arguments and results."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        max_classes: int = 25,
        max_length: int = 1024,
        classification_type: str = "multi-label",
        device: Any = "cuda:0",
        progress_bar: bool = True,
        text_chunk_size: int = 8192,
        text_chunk_overlap: int = 256,
        labels_chunk_size: int = 8,
        label_separator: str = ".",
        batch_tokens: int | None = None,
        labels_tokenizer: Any = None,
        warm_up: Sequence[int] = (),
        **model_options: Any,
    ) -> None:
        """Takes chunk sizes and overlap of texts in characters, and labels_chunk_size in labels per pass."""
        super().__init__(
            model, tokenizer, max_classes, max_length, classification_type, device, progress_bar,
            label_separator, batch_tokens, labels_tokenizer, warm_up, **model_options,
        )  # fmt: skip
        self.text_chunk_size, self.text_chunk_overlap = text_chunk_size, text_chunk_overlap
        self.labels_chunk_size = labels_chunk_size

    def chunk_text(self, text: str, chunk_size: int | None = None, overlap: int | None = None) -> list[str]:
        """Cuts a text into pieces of `chunk_size` characters, of which neighbours share `overlap` characters.

        Raises ValueError unless 0 <= overlap < chunk_size, where a text is longer than a chunk.
        """
        size = self.text_chunk_size if chunk_size is None else chunk_size
        shared = self.text_chunk_overlap if overlap is None else overlap
        if len(text) <= size:
            return [text]
        if size <= 0 or not 0 <= shared < size:
            raise ValueError(
                f"chunks of {size} characters cannot overlap by {shared}: need "
                "0 <= text_chunk_overlap < text_chunk_size"
            )
        starts = range(0, len(text) - shared, size - shared)
        return [text[start : start + size] for start in starts]

    def __call__(
        self,
        texts: str | Sequence[str],
        labels: Any,
        threshold: float = 0.5,
        batch_size: int = 8,
        labels_chunk_size: int | None = None,
        text_chunk_size: int | None = None,
        text_chunk_overlap: int | None = None,
        rac_examples: Sequence[Any] | None = None,
        examples: Sequence[Any] | None = None,
        prompt: str | Sequence[str] | None = None,
        return_hierarchical: bool = False,
    ) -> list[Any]:
        """Classifies texts; the chunk sizes given here stay set, as in the reference.

        Returns a list of predictions per text: for single-label the best label, for multi-label the labels at
        or above the threshold, best first. A text of several chunks gets the best score of each label over
        its chunks; single-label scores are then rescaled to sum to 1.

        Raises TypeError, ValueError and FloatingPointError as `ZeroShotClassificationPipeline` does.
        """
        for name, value in (
            ("labels_chunk_size", labels_chunk_size),
            ("text_chunk_size", text_chunk_size),
            ("text_chunk_overlap", text_chunk_overlap),
        ):
            if value is not None:
                setattr(self, name, value)
        if self.labels_chunk_size < 1:
            raise ValueError(f"labels_chunk_size must be at least 1, got {self.labels_chunk_size}")
        requests, structures = self._requests(texts, labels, prompt, examples, rac_examples)
        thresholds = arguments.thresholds_per_text(threshold, len(requests))
        chunks = [
            (index, replace(request, text=piece))
            for index, request in enumerate(requests)
            for piece in self.chunk_text(request.text)
        ]
        scored = self.engine.score(
            [chunk for _, chunk in chunks],
            self.labels_chunk_size,
            self.progress_bar,
            [index for index, _ in chunks],
        )
        kind = self.classification_type
        scores = results.scores_of(
            [chunk.labels for _, chunk in chunks], [each.logits for each in scored], [kind] * len(chunks)
        )
        of_text: list[list[results.Scores]] = [[] for _ in requests]
        for (index, _), each in zip(chunks, scores, strict=True):
            of_text[index].append(each)
        found: list[Any] = []
        for own, structure, threshold in zip(of_text, structures, thresholds, strict=True):
            best = results.merged(own, kind)
            predictions = best.predictions(kind, threshold)
            predictions.sort(key=lambda prediction: -prediction["score"])
            if return_hierarchical:
                found.append(best.hierarchical(structure, predictions, self.label_separator))
            else:
                found.append(predictions)
        return found
