"""ModernBERT, Ettin, mmBERT (Warner et al., arXiv:2412.13663): they have pre-LN layers and RoPE, and some of
their layers attend to near tokens only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models import encoders
from gliclass_fast.models.backbone_config import BackboneConfig, common_fields, refuse_causal
from gliclass_fast.models.binding import bound_feed_forward, bound_layers, bound_self_attention
from gliclass_fast.models.layers import Embedding, Linear, Norm, NormLinear
from gliclass_fast.models.rotary import RotaryTable, theta_of
from gliclass_fast.ops import AdapterRows, BoundFeedForward, BoundSelfAttention, Ops, Positions

WEIGHTS = {
    "word_embeddings.weight": ("embeddings.tok_embeddings.weight",),
    **affine(
        {
            "norm": "embeddings.norm",
            "final_norm": "final_norm",
            "layers.{i}.attention_norm": "layers.{i}.attn_norm",
            "layers.{i}.qkv": "layers.{i}.attn.Wqkv",
            "layers.{i}.out": "layers.{i}.attn.Wo",
            "layers.{i}.up.norm": "layers.{i}.mlp_norm",
            "layers.{i}.up.linear": "layers.{i}.mlp.Wi",
            "layers.{i}.down": "layers.{i}.mlp.Wo",
        }
    ),
}
UNUSED: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BackboneConfig):
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    thetas: tuple[float, ...]  # RoPE base per layer
    windows: tuple[int | None, ...]  # reach to each side per layer, None for global attention


def config_from(hf: Any) -> Config:
    refuse_causal(hf, "is_causal")
    for kind, rope in hf.rope_parameters.items():
        if rope is not None and (name := rope["rope_type"]) != "default":
            raise UnsupportedConfigError(
                f"encoder_config.rope_parameters.{kind}.rope_type={name!r}; supported: default"
            )
    local = "sliding_attention"
    return Config(
        **common_fields(hf, "hidden_activation"),
        norm_eps=hf.norm_eps,
        norm_bias=hf.norm_bias,
        attention_bias=hf.attention_bias,
        mlp_bias=hf.mlp_bias,
        thetas=tuple(theta_of(hf.rope_parameters[kind]) for kind in hf.layer_types),
        windows=tuple(hf.local_attention // 2 if kind == local else None for kind in hf.layer_types),
        max_positions=None,
    )


class Layer(nn.Module):
    bound_attention: BoundSelfAttention | None = None  # `attention` in one call
    bound: BoundFeedForward | None = None  # `after_attention` in one call

    def __init__(self, config: Config, ops: Ops, number: int) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        self.config, self.ops = config, ops
        self.window, self.theta = config.windows[number], config.thetas[number]
        self.attention_norm = Norm(width, ops, eps, config.norm_bias) if number else None
        self.qkv = Linear(width, 3 * width, ops, config.attention_bias)
        self.out = Linear(width, width, ops, config.attention_bias)
        self.up = NormLinear(width, 2 * inner, ops, eps, config.norm_bias, config.mlp_bias)
        self.down = Linear(inner, width, ops, config.mlp_bias)

    def attention(self, normed: Tensor, batch: PackedBatch, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Runs the part that looks at other tokens, [T, C] -> [T, C]."""
        if self.bound_attention is not None and batch.adapter_rows is None:
            return self.bound_attention(normed, batch.sequences, rotary)
        qkv = self.qkv(normed, rows=batch.adapter_rows)
        qkv = qkv.view(normed.shape[0], 3, self.config.num_attention_heads, -1)
        positions = Positions(rotary, self.window)
        return self.ops.attention(qkv, batch.sequences, qkv.shape[-1] ** -0.5, positions)

    def after_attention(
        self, x: Tensor, attended: Tensor, norm: Norm, rows: AdapterRows | None
    ) -> tuple[Tensor, Tensor]:
        """Treats every row alone and returns (residual stream, `norm` of it); it may overwrite x."""
        if self.bound is not None:
            return self.bound(x, attended, rows, (self.out.lora, self.up.linear.lora, self.down.lora))
        x = self.out.add(attended, x, rows)
        x = self.down.add(self.up(x, self.config.activation, gated=True, rows=rows), x, rows)
        return x, norm(x)


class Encoder(encoders.Encoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops, width, eps = config, ops, config.hidden_size, config.norm_eps
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.norm, self.final_norm = (Norm(width, ops, eps, config.norm_bias) for _ in range(2))
        layers = [Layer(config, ops, number) for number in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(layers)
        between = [layer.attention_norm for layer in layers if layer.attention_norm is not None]
        self.norms_after = [*between, self.final_norm]  # of every layer

    def fold_weights(self) -> None:
        """Makes the rotary tables, with frequencies theta ** (-2k / D). No weight is folded."""
        like, width = self.word_embeddings.weight, self.config.head_width
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=like.device) / width
        thetas = set(self.config.thetas)
        self.rotary = {theta: RotaryTable(1.0 / theta**exponents, like) for theta in thetas}

    def bind(self) -> None:
        config = self.config
        heads, width = config.num_attention_heads, config.head_width
        for layer, norm in zip(self.layers, self.norms_after, strict=True):
            assert isinstance(layer, Layer)
            layer.bound_attention = bound_self_attention(
                layer.qkv, heads, width, width**-0.5, window=layer.window
            )
            maps = layer.out, layer.up, layer.down
            layer.bound = bound_feed_forward(*maps, config.activation, gated=True, last_norm=norm)
        self.bound_layers = bound_layers(self.layers, self.ops)

    def embed(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        sources = [encoders.word_source(self.word_embeddings.weight, batch, inputs_embeds)]
        if segment_table is not None:
            sources.append((segment_table, batch.segments))
        return self.norm.embed(sources)

    def _streams(
        self, batch: PackedBatch, segment_table: Tensor | None, inputs_embeds: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the residual stream and its norm for the next layer, after the embedding and every layer."""
        x = normed = self.embed(batch, segment_table, inputs_embeds)
        yield x, normed
        for layer, norm in zip(self.layers, self.norms_after, strict=True):
            assert isinstance(layer, Layer)
            attended = self._attention(layer, normed, batch)
            x, normed = layer.after_attention(x, attended, norm, batch.adapter_rows)
            yield x, normed

    def rotary_tables(self, batch: PackedBatch) -> list[tuple[Tensor, Tensor]]:
        tables = {theta: table(batch.max_seqlen) for theta, table in self.rotary.items()}
        return [tables[theta] for theta in self.config.thetas]

    def as_state(self, number: int, x: Tensor, normed: Tensor) -> Tensor:
        return normed if number == len(self.layers) else x

    def _attention(self, layer: Layer, normed: Tensor, batch: PackedBatch) -> Tensor:
        return layer.attention(normed, batch, self.rotary[layer.theta](batch.max_seqlen))

    def hidden_states(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Iterator[Tensor]:
        for number, (x, normed) in enumerate(self._streams(batch, segment_table, inputs_embeds)):
            yield self.as_state(number, x, normed)

    def last_attention(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        last = len(self.layers) - 1
        if (found := self.at_once(last, batch, segment_table, inputs_embeds)) is None:
            found = next(islice(self._streams(batch, segment_table, inputs_embeds), last, None))
        x, normed = found
        layer = self.layers[-1]
        assert isinstance(layer, Layer)
        return x, self._attention(layer, normed, batch)

    def last_feed_forward(self, x: Tensor, attended: Tensor, rows: AdapterRows | None = None) -> Tensor:
        layer = self.layers[-1]
        assert isinstance(layer, Layer)
        return layer.after_attention(x, attended, self.final_norm, rows)[1]
