"""Decoders of encoder-decoders, one file per Hugging Face `model_type`; each has WEIGHTS, UNUSED,
Config.from_hf and Decoder(config, ops, causal).

Weights are named as in the whole model, of which the encoder has a file of its own in `encoders`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gliclass_fast.batch import PackedBatch

AHEAD = -30000.0  # added to the score of a key the query must not see; its share of the softmax is then 0


class Decoder(Protocol):
    """What an architecture asks of a decoder; in a causal one a token sees none after it in its sequence."""

    def __call__(self, batch: PackedBatch, memory: Tensor, spans: Tensor) -> Tensor:
        """The last state of every token of the batch, [T, C].

        memory: the encoder's last states [M, C], of which every sequence sees the rows of its span [N, 2].
        """
        ...
