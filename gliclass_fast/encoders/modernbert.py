"""ModernBERT, Ettin, mmBERT (Warner et al., arXiv:2412.13663): pre-LN, RoPE, alternating local attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.config import UnsupportedConfigError, hf_activation
from gliclass_fast.ops import Ops
from gliclass_fast.weights import affine

WEIGHTS = {
    "words.weight": ("embeddings.tok_embeddings.weight",),
    **affine(
        {
            "norm": "embeddings.norm",
            "final_norm": "final_norm",
            "layers.{i}.attention_norm": "layers.{i}.attn_norm",
            "layers.{i}.qkv": "layers.{i}.attn.Wqkv",
            "layers.{i}.out": "layers.{i}.attn.Wo",
            "layers.{i}.mlp_norm": "layers.{i}.mlp_norm",
            "layers.{i}.up": "layers.{i}.mlp.Wi",
            "layers.{i}.down": "layers.{i}.mlp.Wo",
        }
    ),
}
UNUSED: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    activation: str
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    thetas: tuple[float, ...]  # RoPE base per layer
    windows: tuple[int | None, ...]  # reach to each side per layer, None for global attention
    max_positions: int | None

    @classmethod
    def from_hf(cls, hf: Any) -> Config:
        for kind, rope in hf.rope_parameters.items():
            if rope is not None and (name := rope["rope_type"]) != "default":
                raise UnsupportedConfigError(
                    f"encoder_config.rope_parameters.{kind}.rope_type={name!r}; supported: default"
                )
        local = "sliding_attention"
        return cls(
            vocab_size=hf.vocab_size,
            hidden_size=hf.hidden_size,
            num_hidden_layers=hf.num_hidden_layers,
            num_attention_heads=hf.num_attention_heads,
            intermediate_size=hf.intermediate_size,
            activation=hf_activation("encoder_config.hidden_activation", hf.hidden_activation),
            norm_eps=hf.norm_eps,
            norm_bias=hf.norm_bias,
            attention_bias=hf.attention_bias,
            mlp_bias=hf.mlp_bias,
            thetas=tuple(hf.rope_parameters[kind]["rope_theta"] for kind in hf.layer_types),
            windows=tuple(hf.local_attention // 2 if kind == local else None for kind in hf.layer_types),
            max_positions=None,
        )


class Layer(nn.Module):
    def __init__(self, config: Config, ops: Ops, number: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, config.intermediate_size
        self.config, self.ops = config, ops
        self.window = config.windows[number]
        self.attention_norm = nn.LayerNorm(width, bias=config.norm_bias) if number else None
        self.qkv = nn.Linear(width, 3 * width, bias=config.attention_bias)
        self.out = nn.Linear(width, width, bias=config.attention_bias)
        self.mlp_norm = nn.LayerNorm(width, bias=config.norm_bias)
        self.up = nn.Linear(width, 2 * inner, bias=config.mlp_bias)
        self.down = nn.Linear(inner, width, bias=config.mlp_bias)

    def forward(
        self, x: Tensor, normed: Tensor, batch: PackedBatch, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(residual stream, its attention norm) -> (residual stream, the feed-forward part still to add)."""
        ops, heads = self.ops, self.config.num_attention_heads
        qkv = ops.linear(normed, self.qkv.weight, self.qkv.bias).view(x.shape[0], 3, heads, -1)
        attended = ops.attention(qkv, batch.cu_seqlens, qkv.shape[-1] ** -0.5, rotary, self.window)
        attended = ops.linear(attended, self.out.weight, self.out.bias)
        x, normed = ops.add_norm(attended, x, self.mlp_norm.weight, self.mlp_norm.bias, self.config.norm_eps)
        inner = ops.gated_linear_unit(
            ops.linear(normed, self.up.weight, self.up.bias), self.config.activation
        )
        return x, ops.linear(inner, self.down.weight, self.down.bias)


class Encoder(nn.Module):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, bias=config.norm_bias)
        self.layers = nn.ModuleList(Layer(config, ops, number) for number in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, bias=config.norm_bias)

    def fold(self) -> None:
        """Nothing depends on weights alone."""

    def _rotary(self, positions: Tensor) -> dict[float, tuple[Tensor, Tensor]]:
        """cos and sin per RoPE base, float32 [T, D]: angle = position * theta ** (-2k / D), halves alike."""
        width = self.config.hidden_size // self.config.num_attention_heads
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
        tables = {}
        for theta in set(self.config.thetas):
            angles = positions[:, None].float() * (1.0 / theta**exponents)
            angles = torch.cat((angles, angles), dim=-1)
            # the reference rounds both to the working dtype
            dtype = self.words.weight.dtype
            tables[theta] = (angles.cos().to(dtype).float(), angles.sin().to(dtype).float())
        return tables

    def states(self, batch: PackedBatch, segments: Tensor | None = None) -> Iterator[Tensor]:
        ops, eps = self.ops, self.config.norm_eps
        sources = [(self.words.weight, batch.token_ids)]
        if segments is not None:
            sources.append((segments, batch.segments))
        rotary = self._rotary(batch.positions)
        x = normed = ops.embedding_norm(sources, self.norm.weight, self.norm.bias, eps)
        yield x
        norms = [*(layer.attention_norm for layer in list(self.layers)[1:]), self.final_norm]
        for layer, theta, norm in zip(self.layers, self.config.thetas, norms, strict=True):
            x, update = layer(x, normed, batch, rotary[theta])
            assert isinstance(norm, nn.LayerNorm)
            x, normed = ops.add_norm(update, x, norm.weight, norm.bias, eps)
            yield normed if norm is self.final_norm else x
