"""`weighted-dot`: a two-layer ReLU network reads [t0; l0; t1 * l1]; (t0, t1), (l0, l1) are projections."""

from __future__ import annotations

import torch
from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models import scorers
from gliclass_fast.models.layers import Linear, PairLinear, both
from gliclass_fast.ops import Ops

WEIGHTS = affine(
    {"text": "proj_text", "label": "proj_label", "first.whole": "out_mlp.0", "last": "out_mlp.3"}
)


class Scorer(scorers.Scorer):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        width = config.hidden_size
        self.text = Linear(width, 2 * width, ops)
        self.label = Linear(width, 2 * width, ops)
        self.first = PairLinear(width, 2 * width, 4 * width, ops)
        self.last = Linear(4 * width, 1, ops)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        projected = both((self.text, self.label), (text, labels))
        (text_sum, text_factor), (label_sum, label_factor) = (each.chunk(2, dim=-1) for each in projected)
        pairs = torch.cat((label_sum, text_factor[batch.label_text] * label_factor), dim=-1)
        hidden = self.first(text_sum, pairs, batch, "relu")
        return self.last(hidden)[:, 0]
