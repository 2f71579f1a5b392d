"""The decoder of BART (Lewis et al., arXiv:1910.13461): it has the encoder's layers, with attention to the
encoder's hidden states between their halves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models import decoders
from gliclass_fast.models.decoders import AHEAD, Encoded
from gliclass_fast.models.encoders import bart
from gliclass_fast.models.layers import Linear, Norm
from gliclass_fast.models.post_norm import PostNormLayer
from gliclass_fast.ops import AdapterRows, Ops, Positions, Sequences

_CROSS = "decoder.layers.{i}.encoder_attn"
WEIGHTS = {
    **bart.stack_weights("decoder"),
    **affine(
        {
            "layers.{i}.q": f"{_CROSS}.q_proj",
            "layers.{i}.kv": [f"{_CROSS}.{part}_proj" for part in "kv"],
            "layers.{i}.cross_out": f"{_CROSS}.out_proj",
            "layers.{i}.cross_norm": f"{_CROSS}_layer_norm",
        }
    ),
}
UNUSED = ()


def config_from(hf: Any) -> bart.Config:
    return bart.config_from(hf, "decoder")


class Layer(PostNormLayer):
    def __init__(self, config: bart.Config, ops: Ops) -> None:
        super().__init__(config, ops)
        width = config.hidden_size
        self.q, self.kv = Linear(width, width, ops), Linear(width, 2 * width, ops)
        self.cross_out, self.cross_norm = Linear(width, width, ops), Norm(width, ops, config.norm_eps)

    def cross(self, x: Tensor, encoded: Encoded, sequences: Sequences, rows: AdapterRows | None) -> Tensor:
        """Returns the norm of the sum of the tokens and what they find in what is encoded, [T, C]."""
        q = self.q(x, rows=rows).view(x.shape[0], self.num_heads, -1)
        kv = self.kv(encoded.hidden_states, rows=encoded.adapters)
        k, v = kv.view(kv.shape[0], 2, self.num_heads, -1).unbind(1)
        found = self.ops.cross_attention(q, k, v, sequences)
        return self.cross_norm.add(self.cross_out(found, rows=rows), x)


class Decoder(bart.Encoder, decoders.Decoder):
    def __init__(self, config: bart.Config, ops: Ops, causal: bool) -> None:
        super().__init__(config, ops)
        self.causal = causal
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Scales the word embeddings; gives causal layers a bias of distances i - j = -1, 0, 1 and beyond."""
        super().fold_weights()
        if self.causal:
            device = self.word_embeddings.weight.device
            by_distance = torch.tensor([AHEAD, 0.0, 0.0], dtype=torch.float32, device=device)
            hidden = Positions(distance_bias=by_distance.repeat(self.config.num_attention_heads, 1))
            for layer in self.layers:
                assert isinstance(layer, Layer)
                layer.positions = hidden

    def forward(self, batch: PackedBatch, encoded: Encoded) -> Tensor:
        x = self.embed(batch)
        sequences, rows = batch.sequences.with_keys(encoded.spans), batch.adapter_rows
        for layer in self.layers:
            assert isinstance(layer, Layer)
            x = layer.add_attention(x, layer.attention(x, batch), rows)
            x = layer.cross(x, encoded, sequences, rows)
            x = layer.feed_forward(x, rows)
        return x
