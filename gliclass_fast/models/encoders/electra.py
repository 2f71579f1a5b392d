"""ELECTRA's discriminator (Clark et al., arXiv:2003.10555): BERT, with embeddings that may be narrower than
its layers.

Narrow embeddings are summed and normed at their own width, then projected: unlike DeBERTa's, their projection
does not fold into the tables.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models.encoders import bert
from gliclass_fast.ops import Ops

WEIGHTS = {**bert.WEIGHTS, **affine({"widen": "embeddings_project"})}
UNUSED = ("embeddings.position_ids", "embeddings.token_type_ids")


@dataclass(frozen=True, slots=True)
class Config(bert.Config):
    embedding_size: int

    @classmethod
    def from_hf(cls, hf: Any, first_position: int = 0) -> Config:
        return cls(**asdict(bert.Config.from_hf(hf, first_position)), embedding_size=hf.embedding_size)


class Encoder(bert.Encoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__(config, ops)
        self.widen: nn.Linear | None = None
        narrow = config.embedding_size
        if narrow != config.hidden_size:
            self.words = nn.Embedding(config.vocab_size, narrow)
            self.places = nn.Embedding(config.table_length, narrow)
            self.types = nn.Embedding(config.type_vocab_size, narrow)
            self.norm = nn.LayerNorm(narrow)
            self.widen = nn.Linear(narrow, config.hidden_size)

    def embed(
        self, batch: PackedBatch, segments: Tensor | None = None, words: Tensor | None = None
    ) -> Tensor:
        x = super().embed(batch, segments, words)
        return x if self.widen is None else self.ops.linear(x, self.widen.weight, self.widen.bias)
