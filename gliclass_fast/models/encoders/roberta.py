"""RoBERTa (Liu et al., arXiv:1907.11692) and XLM-RoBERTa (Conneau et al., arXiv:1911.02116): they are
BERT with positions that start after the padding index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.encoders import bert

WEIGHTS, UNUSED = bert.WEIGHTS, bert.UNUSED


def config_from(hf: Any) -> bert.Config:
    return bert.config_from(hf, first_position=hf.pad_token_id + 1)


class Encoder(bert.Encoder):
    def position_rows(self, batch: PackedBatch, embedded: bool) -> Tensor:
        padding = self.config.pad_token_id
        if embedded:  # without ids, every token counts
            return batch.positions + (padding + 1)
        return positions_after_padding(batch, padding)


def positions_after_padding(batch: PackedBatch, padding: int) -> Tensor:
    """Returns RoBERTa's positions, int32 [T]: they count, from padding + 1, what is not the padding token."""
    counted = (batch.token_ids != padding).int()
    running = counted.cumsum(0, dtype=torch.int32)
    first = torch.arange(running.shape[0], dtype=torch.int32, device=running.device) - batch.positions
    before = (running - counted)[first]
    return (running - before) * counted + padding
