"""`mlp`: a three-layer ReLU network reads [text; label].

The first layer is a sum of a text part, computed once per prompt, and a label part.
"""

from __future__ import annotations

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models import scorers
from gliclass_fast.models.layers import Linear, PairLinear
from gliclass_fast.ops import Ops

WEIGHTS = affine({"first.whole": "mlp.0", "second": "mlp.2", "last": "mlp.4"})


class Scorer(scorers.Scorer):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.first = PairLinear(config.hidden_size, config.hidden_size, scorers.FIXED_HIDDEN_SIZE, ops)
        self.second = Linear(scorers.FIXED_HIDDEN_SIZE, scorers.FIXED_HIDDEN_SIZE // 2, ops)
        self.last = Linear(scorers.FIXED_HIDDEN_SIZE // 2, 1, ops)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        hidden = self.first(text, labels, batch, "relu")
        return self.last(self.second(hidden, "relu"))[:, 0]
