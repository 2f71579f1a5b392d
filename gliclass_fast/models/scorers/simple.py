"""`simple`: the logit is the dot product of text vector and label vector."""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Weights
from gliclass_fast.config import ModelConfig
from gliclass_fast.models import scorers
from gliclass_fast.ops import Ops

WEIGHTS: Weights = {}


class Scorer(scorers.Scorer):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        return self.ops.pair_dot(text, labels, batch.label_text)
