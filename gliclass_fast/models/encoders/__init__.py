"""Backbones, one file per Hugging Face `model_type`; each has WEIGHTS, UNUSED, Config.from_hf and Encoder.

`Encoder.states(batch)` yields the embedding output and then every layer's output, [T, C] each, so that a
caller who needs layer k stops there. `mix_last` and `finish_last` are the same with the last layer in two
steps, of which the second treats every row alone: a caller who needs few rows finishes only those.
`Encoder.fold()` runs once after the weights are in and makes what depends on weights alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch


def word_source(table: Tensor, batch: PackedBatch, words: Tensor | None) -> tuple[Tensor, Tensor]:
    """The word embeddings as a source of `embedding_norm`: a table and the row of every token."""
    if words is None:
        return table, batch.token_ids
    return words, torch.arange(words.shape[0], dtype=torch.int32, device=words.device)


def last_state(states: Iterator[Tensor]) -> Tensor:
    """The last of what `Encoder.states` yields, without keeping the others."""
    return deque(states, maxlen=1)[0]


class Encoder(Protocol):
    """What an architecture asks of a backbone."""

    words: nn.Embedding

    def states(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Embedding output, then each layer's. A state may be overwritten once the next one is asked for.

        segments: a table [3, C] added per `batch.segments`; words: what stands for the word embeddings of the
        tokens, [T, C], where something else does; they may be overwritten.
        """
        ...

    def mix_last(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The last layer's input and what its attention makes of it, [T, C] each."""
        ...

    def finish_last(self, x: Tensor, attended: Tensor) -> Tensor:
        """The last state of any rows, [R, C], from those rows of what `mix_last` gave."""
        ...

    def fold(self) -> None:
        """Makes the products of weights alone."""
        ...
