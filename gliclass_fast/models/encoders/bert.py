"""BERT (Devlin et al., arXiv:1810.04805): it has learned absolute positions and post-LN layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models.backbone_config import BackboneConfig, common_fields, refuse_causal
from gliclass_fast.models.encoders import word_source
from gliclass_fast.models.layers import Embedding, Norm
from gliclass_fast.models.post_norm import PostNormEncoder, PostNormLayer
from gliclass_fast.ops import Ops

_LAYER = "encoder.layer.{i}"
WEIGHTS = {
    "word_embeddings.weight": ("embeddings.word_embeddings.weight",),
    "position_embeddings.weight": ("embeddings.position_embeddings.weight",),
    "token_type_embeddings.weight": ("embeddings.token_type_embeddings.weight",),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BackboneConfig):
    table_length: int  # rows of the position table
    type_vocab_size: int
    pad_token_id: int
    embedding_size: int  # width of the embedding tables


def config_from(hf: Any, first_position: int = 0) -> Config:
    refuse_causal(hf, "is_decoder", "is_causal")
    return Config(
        **common_fields(hf),
        norm_eps=hf.layer_norm_eps,
        max_positions=hf.max_position_embeddings - first_position,
        table_length=hf.max_position_embeddings,
        type_vocab_size=hf.type_vocab_size,
        pad_token_id=hf.pad_token_id or 0,
        embedding_size=getattr(hf, "embedding_size", hf.hidden_size),
    )


class Encoder(PostNormEncoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        self.config, width = config, config.embedding_size
        self.word_embeddings = Embedding(config.vocab_size, width)
        self.position_embeddings = Embedding(config.table_length, width)
        self.token_type_embeddings = None
        if config.type_vocab_size:
            self.token_type_embeddings = Embedding(config.type_vocab_size, width)
        self.norm = Norm(width, ops, config.norm_eps)
        self.layers = nn.ModuleList(PostNormLayer(config, ops) for _ in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Adds the embedding of type 0, which every token has, to the position table."""
        if self.token_type_embeddings is not None:
            folded = self.position_embeddings.weight + self.token_type_embeddings.weight[0]
            self.position_embeddings.weight = nn.Parameter(folded, requires_grad=False)
            self.token_type_embeddings = None

    def position_rows(self, batch: PackedBatch, embedded: bool) -> Tensor:
        """Returns every token's row of the position table, [T]; if embedded, the reference passes no ids."""
        return batch.positions

    def embed(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        embedded = segment_table is not None or inputs_embeds is not None
        sources = [
            word_source(self.word_embeddings.weight, batch, inputs_embeds),
            (self.position_embeddings.weight, self.position_rows(batch, embedded)),
        ]
        if segment_table is not None:
            sources.append((segment_table, batch.segments))
        return self.norm.embed(sources)
