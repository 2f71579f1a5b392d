"""Decoders: each file holds WEIGHTS, UNUSED, config_from and Decoder.

Those of encoder-decoders name their weights as in the whole model, whose encoder has a file of its own in
`encoders`. Language models, which `decoder-kv` reads with, are decoders alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.registry import BackboneModule, Registry
from gliclass_fast.ops import AdapterRows, Ops, Sequences

# A query that must not see a key gets this added to the key's score; the key's weight is then 0.
AHEAD = -30000.0


class Encoded(NamedTuple):
    """Holds what a decoder attends to beside its own tokens."""

    hidden_states: Tensor  # the encoder's last ones, [M, C]
    spans: Tensor  # int32 [N, 2]: every sequence sees the rows of its own span
    adapters: AdapterRows | None  # those of the hidden states


class Decoder(nn.Module):
    """Says what an architecture asks of a decoder; in a causal one a token sees none after it."""

    __call__: Callable[..., Tensor]
    word_embeddings: nn.Embedding

    def forward(self, batch: PackedBatch, encoded: Encoded) -> Tensor:
        """Returns the last hidden state of every token of the batch, [T, C]."""
        raise NotImplementedError


class DecoderModule(BackboneModule, Protocol):
    """Says what a file of this folder holds."""

    Decoder: Callable[[Any, Ops, bool], Decoder]  # makes one, which may be causal


class KeyValues(Protocol):
    """Says what a language model asks of what keeps the keys and values of earlier tokens."""

    pages: Tensor  # int32 [P], as `causal_attention` takes them

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Takes those of new tokens, [T, G, D] each, and returns those of all tokens, [K, G, D] each."""
        ...


class Tokens(NamedTuple):
    """Holds new tokens of one sequence or several, as a language model reads them."""

    token_ids: Tensor  # int32 [T]
    positions: Tensor  # int32 [T]
    sequences: Sequences  # rows and keys, as `causal_attention` takes them
    longest: int  # a bound of the positions
    adapters: AdapterRows | None = None


class LanguageModel(nn.Module):
    """Says what `decoder-kv` asks of a language model; the second step treats every row alone."""

    def last_attention(self, tokens: Tokens, kept: KeyValues | None = None) -> tuple[Tensor, Tensor]:
        """Returns the last layer's input and what its attention makes of it, [T, C] and [T, H * D].

        kept: what holds earlier tokens; None: there are none.
        """
        raise NotImplementedError

    def last_feed_forward(self, x: Tensor, attended: Tensor, rows: AdapterRows | None = None) -> Tensor:
        """Returns the last hidden state of any rows, [R, C], made of these rows of `last_attention`.

        It may overwrite x. rows: the adapters of these rows.
        """
        raise NotImplementedError


class LanguageModelModule(BackboneModule, Protocol):
    """Says what a file of a language model holds."""

    Decoder: Callable[[Any, Ops], LanguageModel]


DECODERS: Registry[DecoderModule] = Registry(
    "encoder_config.model_type", __name__, ("bart", "t5"), {"mt5": ".t5", "umt5": ".t5"}
)
LANGUAGE_MODELS: Registry[LanguageModelModule] = Registry("encoder_config.model_type", __name__, ("qwen3",))
