"""The cache of label vectors: each is computed once, however many texts ask for it."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text.errors import LabelsDoNotFit
from gliclass_fast.text.tokenizer import SequenceTokenizer, window_of

CAPACITY = 16384  # labels: 50 MB in float32 at a width of 768; any number near it works
# label lists whose vectors stay together, as most callers send the same list again; any number near it works
LISTS = 16


class LabelCache:
    """Keeps one model's label vectors, by the label's text, and drops the least recently used ones."""

    def __init__(
        self,
        model: GLiClassModel,
        tokenizer: Any,
        max_length: int | None,
        batch_tokens: int,
        capacity: int = CAPACITY,
    ) -> None:
        """Takes the label tower's tokenizer and its window in tokens, special tokens included."""
        longest = model.loaded.config.label_backbone_config.max_positions
        self._tokenizer = SequenceTokenizer(tokenizer)
        max_length = window_of(max_length, tokenizer)
        self._window = max_length if longest is None else min(max_length, longest)
        self._model, self._batch_tokens, self._capacity = model, batch_tokens, capacity
        self._vectors: OrderedDict[str, Tensor] = OrderedDict()
        self._lists: OrderedDict[tuple[str, ...], Tensor] = OrderedDict()
        self._loaded = weakref.ref(model.loaded)  # weak, as the old network may go when the model moves
        self._made: torch.cuda.Event | None = None  # on a GPU: marks when the newest vectors are made
        self._lock = Lock()

    def __len__(self) -> int:
        """Counts the labels whose vectors are kept."""
        return len(self._vectors)

    def vectors(self, lists: Sequence[tuple[str, ...]]) -> list[Tensor]:
        """Returns the vectors of every list of labels, [labels, C] each, on the model's device.

        Raises ValueError where a label does not fit the window.
        """
        loaded = self._model.loaded
        with self._lock, loaded.inference():
            if self._loaded() is not loaded:  # the model was moved, but its vectors were not
                self._vectors.clear()
                self._lists.clear()
                self._loaded, self._made = weakref.ref(loaded), None
            if self._made is not None:
                torch.cuda.current_stream(loaded.device).wait_event(self._made)
            wanted = dict.fromkeys(lists)
            found = {labels: self._lists[labels] for labels in wanted if labels in self._lists}
            fresh = [labels for labels in wanted if labels not in found]
            self._compute(loaded, [label for labels in fresh for label in labels])
            for labels in fresh:
                found[labels] = torch.stack([self._vectors[label] for label in labels])
            for labels in found:
                self._remember(labels, found[labels])
            if loaded.device.type == "cuda":
                self._note_reads(loaded.device, found, fresh)
            while len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
            return [found[labels] for labels in lists]

    def _note_reads(
        self, device: torch.device, found: Mapping[tuple[str, ...], Tensor], fresh: Sequence[tuple[str, ...]]
    ) -> None:
        """Tells a GPU what the current stream reads, which another thread may drop before it was read."""
        stream = torch.cuda.current_stream(device)
        if fresh:
            self._made = stream.record_event()
        for vectors in found.values():
            vectors.record_stream(stream)
        for label in {label for labels in fresh for label in labels}:
            self._vectors[label].record_stream(stream)

    def _compute(self, loaded: LoadedNetwork, labels: list[str]) -> None:
        """Makes the missing vectors; afterwards those of `labels` are the most recently used."""
        missing = [label for label in dict.fromkeys(labels) if label not in self._vectors]
        prompts = []
        for label, (ids, cut) in zip(missing, self._tokenizer.whole(missing, self._window), strict=True):
            if cut:
                raise LabelsDoNotFit(1, self._window, f"{label!r} needs {len(ids) + cut}")
            prompts.append(EncodedPrompt.of_text(ids, 1))
        if prompts:
            vectors = loaded.label_vectors(prompts, self._batch_tokens)
            # these are copies, as a view would keep all of them in memory
            self._vectors.update((label, row.clone()) for label, row in zip(missing, vectors, strict=True))
        for label in labels:
            self._vectors.move_to_end(label)

    def _remember(self, labels: tuple[str, ...], vectors: Tensor) -> None:
        if len(labels) <= self._capacity // LISTS:  # all lists hold no more than the vectors do
            self._lists[labels] = vectors
            self._lists.move_to_end(labels)
        if len(self._lists) > LISTS:
            self._lists.popitem(last=False)
