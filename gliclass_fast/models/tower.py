"""A tower: it is a backbone whose sequences become one vector each, as in bi-encoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.models.encoders import ENCODERS
from gliclass_fast.models.pooling import pool_whole, within
from gliclass_fast.ops import Ops


class Tower(nn.Module):
    def __init__(self, model_type: str, config: Any, pooling: str, ops: Ops, backbone_ops: Ops) -> None:
        """Takes the backbone's own config; `pooling` goes over whole sequences."""
        super().__init__()
        self.model_type, self.pooling, self.ops = model_type, pooling, ops
        self.backbone = ENCODERS[model_type].Encoder(config, backbone_ops)
        self.prunes_last_layer = pooling == "first" and config.num_hidden_layers > 1

    def load_weights(self, checkpoint: Checkpoint, prefix: str) -> None:
        """Takes the backbone's tensors out of a checkpoint."""
        module = ENCODERS[self.model_type]
        checkpoint.load_weights(self.backbone, module.WEIGHTS, prefix, module.UNUSED)

    def encode(self, batch: PackedBatch, inputs_embeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Returns what `rows` and `pool` need, [T, C] each; for inputs_embeds see the backbones."""
        if self.prunes_last_layer:
            x, attended = self.backbone.last_attention(batch, inputs_embeds=inputs_embeds)
            return x, attended
        return (self.backbone.last_state(batch, inputs_embeds),)

    def rows(self, encoded: tuple[Tensor, ...], places: Tensor, batch: PackedBatch) -> Tensor:
        """Returns the last hidden state of some tokens, [R, C]."""
        places, rows = within(encoded[0], places), batch.adapter_rows
        kept = [state[places] for state in encoded]
        if not self.prunes_last_layer:
            return kept[0]
        x, attended = kept
        return self.backbone.last_feed_forward(x, attended, None if rows is None else rows.at(places))

    def pool(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Tensor:
        """Returns one vector per sequence, [N, C]."""
        if self.prunes_last_layer:
            return self.rows(encoded, batch.cu_seqlens[:-1], batch)
        return pool_whole(encoded[0], batch, self.pooling, self.ops)
