"""Backbones: each file holds WEIGHTS, UNUSED, config_from and Encoder for one or several `model_type`s."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.registry import BackboneModule, Registry
from gliclass_fast.ops import AdapterRows, BoundLayers, Ops


class Encoder(nn.Module):
    """Says what an architecture asks of a backbone.

    `hidden_states` yields one state after another, and `state` returns one of them alone, which may take less
    time. `last_attention` and `last_feed_forward` run the last layer in two steps, and the second step treats
    every row alone: a caller who needs few rows finishes only those. `fold_weights` runs once after the
    weights are loaded, and makes what depends on weights alone.
    """

    # So many rows at most have their layers run in one call. With 512 rows 2 % of ModernBERT's time passes
    # between the halves of layers. With more it is less, and one call would keep its threads for long.
    AT_ONCE = 512

    word_embeddings: nn.Embedding
    layers: nn.ModuleList
    bound_layers: BoundLayers | None = None  # all layers in one call, for rows without adapters

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

    def embed(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """Returns what the first layer reads, [T, C]."""
        raise NotImplementedError

    def rotary_tables(self, batch: PackedBatch) -> Sequence[tuple[Tensor, Tensor] | None]:
        """Returns those of every layer, None for layers without."""
        return [None] * len(self.layers)

    def as_state(self, number: int, x: Tensor, normed: Tensor) -> Tensor:
        """Returns what `hidden_states` yields after so many layers, of what `at_once` gives."""
        return x

    def at_once(
        self,
        number: int,
        batch: PackedBatch,
        segment_table: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """Runs the first layers in one call; returns None where they run one by one.

        The tensors [T, C] are x and normed of kernels/whole_layers.py.
        """
        many = len(batch.token_ids) > self.AT_ONCE
        if self.bound_layers is None or many or batch.adapter_rows is not None:
            return None
        x = self.embed(batch, segment_table, inputs_embeds)
        return self.bound_layers(x, x, batch.sequences, self.rotary_tables(batch)[:number])

    def state(
        self,
        number: int,
        batch: PackedBatch,
        segment_table: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Returns what `hidden_states` yields after so many layers, [T, C]."""
        if (found := self.at_once(number, batch, segment_table, inputs_embeds)) is not None:
            return self.as_state(number, *found)
        return next(islice(self.hidden_states(batch, segment_table, inputs_embeds), number, None))

    def last_state(self, batch: PackedBatch, inputs_embeds: Tensor | None = None) -> Tensor:
        """Returns what `hidden_states` yields after the last layer, [T, C]."""
        return self.state(len(self.layers), batch, inputs_embeds=inputs_embeds)

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
