"""ModernBERT, Ettin, mmBERT (Warner et al., arXiv:2412.13663): pre-LN, RoPE, alternating local attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError, hf_activation
from gliclass_fast.models.encoders import word_source
from gliclass_fast.models.layers import NormLinear
from gliclass_fast.ops import Ops, Positions

WEIGHTS = {
    "words.weight": ("embeddings.tok_embeddings.weight",),
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
ROTARY_LENGTH = 16384  # positions with tables from the start; longer prompts get theirs when they come


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
        self.up = NormLinear(width, 2 * inner, ops, config.norm_eps, config.norm_bias, config.mlp_bias)
        self.down = nn.Linear(inner, width, bias=config.mlp_bias)

    def mix(self, normed: Tensor, batch: PackedBatch, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """The part that looks at other tokens, [T, C] -> [T, C]."""
        qkv = self.ops.linear(normed, self.qkv.weight, self.qkv.bias)
        qkv = qkv.view(normed.shape[0], 3, self.config.num_attention_heads, -1)
        positions = Positions(rotary, self.window)
        return self.ops.attention(qkv, batch.sequences, qkv.shape[-1] ** -0.5, positions)

    def finish(self, x: Tensor, attended: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
        """The part that treats every row alone: (residual stream, `norm` of it). May overwrite x."""
        x = self.ops.linear_add(attended, self.out.weight, self.out.bias, x)
        inner = self.up(x, self.config.activation, gated=True)
        x = self.ops.linear_add(inner, self.down.weight, self.down.bias, x)
        return x, self.ops.layer_norm(x, norm.weight, norm.bias, self.config.norm_eps)


class Encoder(nn.Module):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, bias=config.norm_bias)
        self.layers = nn.ModuleList(Layer(config, ops, number) for number in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, bias=config.norm_bias)
        self._rotary: dict[tuple[float, int], tuple[Tensor, Tensor]] = {}

    def fold(self) -> None:
        """Rotary tables; nothing here depends on weights alone."""
        for theta in set(self.config.thetas):
            self.rotary(theta, ROTARY_LENGTH)

    def rotary(self, theta: float, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin of position * theta ** (-2k / D), float32 [at least length, D / 2]."""
        length = max(ROTARY_LENGTH, 1 << (length - 1).bit_length())
        if (theta, length) not in self._rotary:
            width = self.config.hidden_size // self.config.num_attention_heads
            weight = self.words.weight
            exponents = torch.arange(0, width, 2, dtype=torch.float32, device=weight.device) / width
            places = torch.arange(length, dtype=torch.float32, device=weight.device)
            angles = places[:, None] * (1.0 / theta**exponents)
            # the reference rounds both to the working dtype
            tables = (angles.cos().to(weight.dtype).float(), angles.sin().to(weight.dtype).float())
            self._rotary[theta, length] = tables
        return self._rotary[theta, length]

    def _streams(
        self, batch: PackedBatch, segments: Tensor | None, words: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """(residual stream, the norm of it the next layer reads): of the embedding, then of every layer."""
        ops, eps = self.ops, self.config.norm_eps
        sources = [word_source(self.words.weight, batch, words)]
        if segments is not None:
            sources.append((segments, batch.segments))
        x = normed = ops.embedding_norm(sources, self.norm.weight, self.norm.bias, eps)
        yield x, normed
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            x, normed = layer.finish(x, self._mix(number, normed, batch), self._norm_after(number))
            yield x, normed

    def _mix(self, number: int, normed: Tensor, batch: PackedBatch) -> Tensor:
        rotary = self.rotary(self.config.thetas[number], batch.max_seqlen)
        mixed: Tensor = self.layers[number].mix(normed, batch, rotary)  # type: ignore[operator]
        return mixed

    def _norm_after(self, number: int) -> nn.LayerNorm:
        last = number == len(self.layers) - 1
        norm = self.final_norm if last else self.layers[number + 1].attention_norm
        assert isinstance(norm, nn.LayerNorm)
        return norm

    def states(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> Iterator[Tensor]:
        for number, (x, normed) in enumerate(self._streams(batch, segments, words)):
            yield normed if number == len(self.layers) else x

    def mix_last(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        last = len(self.layers) - 1
        x, normed = next(islice(self._streams(batch, segments, words), last, None))
        return x, self._mix(last, normed, batch)

    def finish_last(self, x: Tensor, attended: Tensor) -> Tensor:
        rows: Tensor = self.layers[-1].finish(x, attended, self.final_norm)[1]  # type: ignore[operator]
        return rows
