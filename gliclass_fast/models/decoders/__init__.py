"""Decoders of encoder-decoders: each file holds WEIGHTS, UNUSED, Config.from_hf and Decoder.

Weights are named as in the whole model, whose encoder has a file of its own in `encoders`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Weights
from gliclass_fast.models.registry import Registry
from gliclass_fast.ops import Ops

# A query that must not see a key gets this added to the key's score; the key's weight is then 0.
AHEAD = -30000.0


class Decoder(Protocol):
    """Says what an architecture asks of a decoder; in a causal one a token sees none after it."""

    def __call__(self, batch: PackedBatch, memory: Tensor, spans: Tensor) -> Tensor:
        """Returns the last hidden state of every token of the batch, [T, C].

        memory: the encoder's last hidden states [M, C]; every sequence sees the rows of its own span [N, 2].
        """
        ...


class DecoderModule(Protocol):
    """Says what a file of this folder holds."""

    WEIGHTS: Weights
    UNUSED: tuple[str, ...]  # stock tensors that nothing reads
    Config: Any  # `from_hf` makes one from a Hugging Face configuration

    Decoder: Callable[[Any, Ops, bool], Any]  # makes a `Decoder`, which may be causal, as a module


DECODERS: Registry[DecoderModule] = Registry(
    "decoder", __name__, {"bart": "bart", "mt5": "t5", "t5": "t5", "umt5": "t5"}
)
