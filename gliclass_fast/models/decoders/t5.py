"""The decoder of T5, mT5 and umT5 (see encoders/t5.py): it has the encoder's layers, with attention to the
encoder's hidden states between their halves. Distances count back only: tokens ahead have the bias of the
token itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models import decoders
from gliclass_fast.models.decoders import AHEAD, Encoded
from gliclass_fast.models.encoders import t5
from gliclass_fast.models.layers import Embedding, Linear, Norm, NormLinear
from gliclass_fast.ops import AdapterRows, Ops, Sequences

_CROSS = "decoder.block.{i}.layer.1"
WEIGHTS = {
    **t5.stack_weights("decoder", feed_forward=2),
    **affine(
        {
            "layers.{i}.q.norm": f"{_CROSS}.layer_norm",
            "layers.{i}.q.linear": f"{_CROSS}.EncDecAttention.q",
            "layers.{i}.kv": [f"{_CROSS}.EncDecAttention.{part}" for part in "kv"],
            "layers.{i}.cross_out": f"{_CROSS}.EncDecAttention.o",
        }
    ),
}
UNUSED = ()


def config_from(hf: Any) -> t5.Config:
    return t5.config_from(hf, of_decoder=True)


class Layer(t5.Layer):
    def __init__(self, config: t5.Config, ops: Ops, number: int) -> None:
        super().__init__(config, ops, number)
        width, across = config.hidden_size, config.num_attention_heads * config.head_width
        self.q = NormLinear(width, across, ops, config.norm_eps, bias=False, rms=True)
        self.kv = Linear(width, 2 * across, ops, bias=False)
        self.cross_out = Linear(across, width, ops, bias=False)

    def fold_weights(self) -> None:
        """Multiplies queries by what `cross_attention` divides by, as the scores of T5 are not scaled."""
        factor, linear = self.config.head_width**0.5, self.q.linear
        linear.rearranged = lambda rows: rows * factor
        linear.weight = nn.Parameter(linear.rearranged(linear.weight), requires_grad=False)

    def cross(self, x: Tensor, encoded: Encoded, sequences: Sequences, rows: AdapterRows | None) -> Tensor:
        """Adds what the tokens find in what is encoded, [T, C]; it may overwrite x."""
        heads = self.config.num_attention_heads
        q = self.q(x, rows=rows).view(x.shape[0], heads, -1)
        kv = self.kv(encoded.hidden_states, rows=encoded.adapters)
        k, v = kv.view(kv.shape[0], 2, heads, -1).unbind(1)
        found = self.ops.cross_attention(q, k, v, sequences)
        return self.cross_out.add(found, x, rows)


class Decoder(decoders.Decoder):
    def __init__(self, config: t5.Config, ops: Ops, causal: bool) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, ops, number) for number in range(config.num_hidden_layers))
        self.final_norm = Norm(config.hidden_size, ops, config.norm_eps, rms=True)

    def fold_weights(self) -> None:
        """Makes the bias of every distance, per layer."""
        buckets = t5.distance_buckets(self.config, of_decoder=True)
        device = self.word_embeddings.weight.device
        hidden = torch.zeros(len(buckets), dtype=torch.float32, device=device)
        if self.causal:
            hidden[: self.config.max_distance] = AHEAD
        t5.fold_biases(self.layers, buckets.to(device), hidden)

    def forward(self, batch: PackedBatch, encoded: Encoded) -> Tensor:
        x: Tensor = self.word_embeddings(batch.token_ids)
        sequences, rows = batch.sequences.with_keys(encoded.spans), batch.adapter_rows
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x = layer.out.add(layer.attention(x, batch), x, rows)
            x = layer.feed_forward(layer.cross(x, encoded, sequences, rows), rows)
        return self.final_norm(x)
