"""Backbones: each file holds WEIGHTS, UNUSED, config_from and Encoder for one or several `model_type`s."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.registry import BackboneModule, Registry
from gliclass_fast.ops import AdapterRows, Ops


class Encoder(nn.Module):
    """Says what an architecture asks of a backbone.

    `hidden_states` yields one state after another, so that a caller who needs layer k stops there.
    `last_attention` and `last_feed_forward` do the same with the last layer in two steps, and the second step
    treats every row alone: a caller who needs few rows finishes only those. `fold_weights` runs once after
    the weights are loaded, and makes what depends on weights alone.
    """

    word_embeddings: nn.Embedding

    def hidden_states(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Yields the embedding output, then every layer's output, [T, C] each.

        A state may be overwritten once the next one is asked for.

        segment_table: a table [3, C], whose row `batch.segments` is added to every token. inputs_embeds:
        what takes the place of the tokens' word embeddings, [T, C], where something does; they may be
        overwritten.
        """
        raise NotImplementedError

    def last_attention(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the last layer's input and what its attention makes of it, [T, C] each."""
        raise NotImplementedError

    def last_feed_forward(self, x: Tensor, attended: Tensor, rows: AdapterRows | None = None) -> Tensor:
        """Returns the last hidden state of any rows, [R, C], made of these rows of `last_attention`.

        rows: the adapters of these rows.
        """
        raise NotImplementedError


class Backbone(BackboneModule, Protocol):
    """Says what a file of this folder holds."""

    Encoder: Callable[[Any, Ops], Encoder]


ENCODERS: Registry[Backbone] = Registry(
    "encoder_config.model_type",
    __name__,
    (
        "bart",
        "bert",
        "deberta",
        "deberta-v2",
        "distilbert",
        "electra",
        "llama",
        "modernbert",
        "qwen2",
        "roberta",
        "t5",
    ),
    {"mt5": ".t5", "umt5": ".t5", "xlm-roberta": ".roberta"},
)
# the encoder-only models; of the others, the reference would run a decoder
ENCODER_ONLY = tuple(name for name in ENCODERS if name not in ("bart", "llama", "mt5", "qwen2", "t5", "umt5"))


def word_source(table: Tensor, batch: PackedBatch, inputs_embeds: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the word embeddings as a source of `embedding_norm`: a table and the row of every token."""
    if inputs_embeds is None:
        return table, batch.token_ids
    return inputs_embeds, torch.arange(len(inputs_embeds), dtype=torch.int32, device=inputs_embeds.device)


def last_state(states: Iterator[Tensor]) -> Tensor:
    """Returns the last of what `Encoder.hidden_states` yields, without keeping the others."""
    return deque(states, maxlen=1)[0]
