"""ELECTRA's discriminator (Clark et al., arXiv:2003.10555): it is BERT with embeddings that may be narrower
than its layers.

Narrow embeddings are summed and normed at their own width, then projected: unlike DeBERTa's, their projection
does not fold into the tables.
"""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.models.encoders import bert
from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Ops

WEIGHTS = {**bert.WEIGHTS, **affine({"widen": "embeddings_project"})}
UNUSED = ("embeddings.position_ids", "embeddings.token_type_ids")
config_from = bert.config_from


class Encoder(bert.Encoder):
    def __init__(self, config: bert.Config, ops: Ops) -> None:
        super().__init__(config, ops)
        narrow, width = config.embedding_size, config.hidden_size
        self.widen = Linear(narrow, width, ops) if narrow != width else None

    def embed(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        x = super().embed(batch, segment_table, inputs_embeds)
        return x if self.widen is None else self.widen(x, rows=batch.adapter_rows)
