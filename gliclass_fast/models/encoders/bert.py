"""BERT (Devlin et al., arXiv:1810.04805): learned absolute positions, post-LN layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError, hf_activation
from gliclass_fast.models.encoders import word_source
from gliclass_fast.ops import Ops

_LAYER = "encoder.layer.{i}"
WEIGHTS = {
    "words.weight": ("embeddings.word_embeddings.weight",),
    "places.weight": ("embeddings.position_embeddings.weight",),
    "types.weight": ("embeddings.token_type_embeddings.weight",),
    **affine(
        {
            "norm": "embeddings.LayerNorm",
            "layers.{i}.qkv": [f"{_LAYER}.attention.self.{part}" for part in ("query", "key", "value")],
            "layers.{i}.out": f"{_LAYER}.attention.output.dense",
            "layers.{i}.attention_norm": f"{_LAYER}.attention.output.LayerNorm",
            "layers.{i}.up": f"{_LAYER}.intermediate.dense",
            "layers.{i}.down": f"{_LAYER}.output.dense",
            "layers.{i}.output_norm": f"{_LAYER}.output.LayerNorm",
        }
    ),
}
UNUSED = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids", "embeddings.token_type_ids")


@dataclass(frozen=True, slots=True)
class Config:
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    activation: str
    norm_eps: float
    table_length: int
    type_vocab_size: int
    pad_token_id: int
    max_positions: int | None

    @classmethod
    def from_hf(cls, hf: Any, first_position: int = 0) -> Config:
        if getattr(hf, "is_decoder", False):
            raise UnsupportedConfigError("encoder_config.is_decoder=true is not supported; supported: false")
        return cls(
            vocab_size=hf.vocab_size,
            hidden_size=hf.hidden_size,
            num_hidden_layers=hf.num_hidden_layers,
            num_attention_heads=hf.num_attention_heads,
            intermediate_size=hf.intermediate_size,
            activation=hf_activation("encoder_config.hidden_act", hf.hidden_act),
            norm_eps=hf.layer_norm_eps,
            table_length=hf.max_position_embeddings,
            type_vocab_size=hf.type_vocab_size,
            pad_token_id=hf.pad_token_id or 0,
            max_positions=hf.max_position_embeddings - first_position,
        )


class PostNormLayer(nn.Module):
    """The feed-forward half and the two norms every post-LN backbone shares; subclasses supply `attend`."""

    def __init__(self, config: Any, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_norm = nn.LayerNorm(config.hidden_size)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size)

    def attend(self, qkv: Tensor, batch: PackedBatch) -> Tensor:
        """[T, 3, H, D] -> [T, C]."""
        raise NotImplementedError

    def mix(self, x: Tensor, batch: PackedBatch) -> Tensor:
        """The part that looks at other tokens, [T, C] -> [T, C]."""
        qkv = self.ops.linear(x, self.qkv.weight, self.qkv.bias)
        return self.attend(qkv.view(x.shape[0], 3, self.config.num_attention_heads, -1), batch)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The part that treats every row alone, from the layer's input and `mix` of it."""
        return self.feed(self.add(x, attended))

    def add(self, x: Tensor, attended: Tensor) -> Tensor:
        """Ends the attention half."""
        attended = self.ops.linear(attended, self.out.weight, self.out.bias)
        norm = self.attention_norm
        return self.ops.add_norm(attended, x, norm.weight, norm.bias, self.config.norm_eps)

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward half."""
        ops, eps = self.ops, self.config.norm_eps
        inner = ops.linear(x, self.up.weight, self.up.bias, self.config.activation)
        inner = ops.linear(inner, self.down.weight, self.down.bias)
        return ops.add_norm(inner, x, self.output_norm.weight, self.output_norm.bias, eps)

    def forward(self, x: Tensor, batch: PackedBatch) -> Tensor:
        return self.finish(x, self.mix(x, batch))


class PostNormEncoder(nn.Module):
    """The last layer of every post-LN backbone, in two steps; subclasses supply `states` and `layers`."""

    layers: nn.ModuleList

    def states(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> Iterator[Tensor]:
        raise NotImplementedError

    def mix_last(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = next(islice(self.states(batch, segments, words), len(self.layers) - 1, None))
        return x, self.layers[-1].mix(x, batch)  # type: ignore[operator]

    def finish_last(self, x: Tensor, attended: Tensor) -> Tensor:
        rows: Tensor = self.layers[-1].finish(x, attended)  # type: ignore[operator]
        return rows


class Layer(PostNormLayer):
    def attend(self, qkv: Tensor, batch: PackedBatch) -> Tensor:
        return self.ops.attention(qkv, batch.sequences, qkv.shape[-1] ** -0.5)


class Encoder(PostNormEncoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.places = nn.Embedding(config.table_length, config.hidden_size)
        self.types = None
        if config.type_vocab_size:
            self.types = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.num_hidden_layers))

    def fold(self) -> None:
        """Every token has type 0: its embedding becomes part of the position table."""
        if self.types is not None:
            folded = self.places.weight + self.types.weight[0]
            self.places.weight, self.types = nn.Parameter(folded, requires_grad=False), None

    def place(self, batch: PackedBatch, embedded: bool) -> Tensor:
        """Row of the position table for every token, [T]; embedded: the reference then passes no ids."""
        return batch.positions

    def embed(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        """What the first layer reads, [T, C]."""
        embedded = segments is not None or words is not None
        sources = [
            word_source(self.words.weight, batch, words),
            (self.places.weight, self.place(batch, embedded)),
        ]
        if segments is not None:
            sources.append((segments, batch.segments))
        return self.ops.embedding_norm(sources, self.norm.weight, self.norm.bias, self.config.norm_eps)

    def states(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> Iterator[Tensor]:
        x = self.embed(batch, segments, words)
        yield x
        for layer in self.layers:
            x = layer(x, batch)
            yield x
