"""Qwen3 (Yang et al., arXiv:2505.09388), dense: it is Llama with an RMSNorm of every head of queries and
keys, and it reads from left to right.

Keys are kept turned to their positions, so that a window over them keeps the positions they were read at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models.decoders import KeyValues, LanguageModel, Tokens
from gliclass_fast.models.encoders import llama
from gliclass_fast.models.encoders.qwen2 import refuse_sliding_window
from gliclass_fast.models.layers import Embedding, Norm
from gliclass_fast.ops import AdapterRows, Ops, Sequences

WEIGHTS = {
    **llama.WEIGHTS,
    **affine({f"layers.{{i}}.{part}_norm": f"layers.{{i}}.self_attn.{part}_norm" for part in "qk"}),
}
UNUSED = llama.UNUSED


def config_from(hf: Any) -> llama.Config:
    refuse_sliding_window(hf)
    return replace(llama.config_from(hf), mlp_bias=False)


class Layer(llama.Layer):
    def __init__(self, config: llama.Config, ops: Ops) -> None:
        super().__init__(config, ops)
        self.q_norm = Norm(config.head_width, ops, config.norm_eps, rms=True)
        self.k_norm = Norm(config.head_width, ops, config.norm_eps, rms=True)

    def fold_weights(self) -> None:
        """Makes one table of the norms of all heads, those of queries first."""
        heads = self.config.num_attention_heads, self.config.num_key_value_heads
        norms = zip((self.q_norm, self.k_norm), heads, strict=True)
        self.head_weights = torch.cat([norm.weight.expand(count, -1) for norm, count in norms])
        del self.q_norm, self.k_norm

    def bind(self) -> None:
        super().bind()
        self.bound_attention = None  # Its heads are normed, and no token sees those after it.

    def causal_attention(
        self,
        x: Tensor,
        angles: tuple[Tensor, Tensor],
        sequences: Sequences,
        number: int,
        kept: KeyValues | None,
        adapters: AdapterRows | None,
    ) -> Tensor:
        """Runs the part that looks at other tokens, [T, C] -> [T, H * D]."""
        config, heads = self.config, self.config.num_attention_heads
        rows = self.qkv(x, rows=adapters)
        rows = rows.view(len(x), heads + 2 * config.num_key_value_heads, config.head_width)
        turned = len(self.head_weights)
        q_and_k = self.ops.head_norm(rows[:, :turned], self.head_weights, config.norm_eps, *angles)
        q, keys, values = q_and_k[:, :heads], q_and_k[:, heads:], rows[:, turned:]
        if kept is None:
            return self.ops.causal_attention(q, keys.contiguous(), values.contiguous(), sequences)
        keys, values = kept.extend(number, keys, values)
        return self.ops.causal_attention(q, keys, values, sequences, kept.pages)


class Decoder(LanguageModel):
    def __init__(self, config: llama.Config, ops: Ops) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.num_hidden_layers))
        self.final_norm = Norm(config.hidden_size, ops, config.norm_eps, rms=True)

    def fold_weights(self) -> None:
        """Makes the rotary tables. No weight is folded."""
        self.rotary = llama.rotary_table(self.config, self.word_embeddings.weight)

    def last_attention(self, tokens: Tokens, kept: KeyValues | None = None) -> tuple[Tensor, Tensor]:
        x: Tensor = self.word_embeddings(tokens.token_ids)
        cos, sin = self.rotary.at(tokens.positions, tokens.longest)
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            attended = layer.causal_attention(x, (cos, sin), tokens.sequences, number, kept, tokens.adapters)
            if number < len(self.layers) - 1:
                x = layer.after_attention(x, attended, tokens.adapters)
        return x, attended

    def last_feed_forward(self, x: Tensor, attended: Tensor, rows: AdapterRows | None = None) -> Tensor:
        layer = self.layers[-1]
        assert isinstance(layer, Layer)
        return self.final_norm(layer.after_attention(x, attended, rows))
