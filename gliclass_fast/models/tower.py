"""A tower: a backbone whose sequences become one vector each, as in bi-encoders."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import component
from gliclass_fast.models.encoders import last_state
from gliclass_fast.models.pooling import pool_whole, within
from gliclass_fast.ops import Ops


class Tower(nn.Module):
    def __init__(self, model_type: str, config: Any, pooling: str, ops: Ops, encoder_ops: Ops) -> None:
        """config: the backbone's. pooling: over whole sequences."""
        super().__init__()
        self.model_type, self.pooling, self.ops = model_type, pooling, ops
        self.backbone = component("encoders", model_type).Encoder(config, encoder_ops)
        self.finishes_few_rows = pooling == "first" and config.num_hidden_layers > 1

    def fill(
        self, checkpoint: Checkpoint, prefix: str, device: torch.device, dtype: torch.dtype
    ) -> list[str]:
        """Takes the backbone's tensors out of a checkpoint; returns names of tensors that may stay unused."""
        module = component("encoders", self.model_type)
        checkpoint.fill(self.backbone, module.WEIGHTS, prefix, device, dtype)
        return [f"{prefix}{name}" for name in module.UNUSED]

    def encode(self, batch: PackedBatch, words: Tensor | None = None) -> tuple[Tensor, ...]:
        """What `rows` and `pool` need, [T, C] each; words: see encoders."""
        if self.finishes_few_rows:
            x, attended = self.backbone.mix_last(batch, words=words)
            return x, attended
        return (last_state(self.backbone.states(batch, words=words)),)

    def rows(self, encoded: tuple[Tensor, ...], places: Tensor) -> Tensor:
        """The last state of some tokens, [R, C]."""
        kept = [state[within(state, places)] for state in encoded]
        finished: Tensor = self.backbone.finish_last(*kept) if self.finishes_few_rows else kept[0]
        return finished

    def pool(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Tensor:
        """One vector per sequence, [N, C]."""
        if self.finishes_few_rows:
            return self.rows(encoded, batch.cu_seqlens[:-1])
        return pool_whole(encoded[0], batch, self.pooling, self.ops)
