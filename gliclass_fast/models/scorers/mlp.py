"""`mlp`: a three-layer ReLU network reads [text; label].

The first layer is a sum of a text part, computed once per prompt, and a label part. Its width is always 256:
the reference ignores `scorer_mlp_hidden_size` for this scorer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Ops

HIDDEN = 256
WEIGHTS = affine({"first.whole": "mlp.0", "second": "mlp.2", "last": "mlp.4"})


class Scorer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.first = PairLinear(config.hidden_size, config.hidden_size, HIDDEN, ops)
        self.second = Linear(HIDDEN, HIDDEN // 2, ops)
        self.last = Linear(HIDDEN // 2, 1, ops)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        hidden = self.first(text, labels, batch, "relu")
        return self.last(self.second(hidden, "relu"))[:, 0]


class PairLinear(nn.Module):
    """Gives activation(weight @ [text; label] + bias), [L, out]; the text half runs once per prompt."""

    def __init__(self, text_width: int, label_width: int, out: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.widths = ops, (text_width, label_width)
        self.whole = Linear(text_width + label_width, out, ops)

    def fold_weights(self) -> None:
        """Splits the layer into its text half, with the bias, and its label half."""
        text, label = torch.split(self.whole.weight, list(self.widths), dim=1)  # type: ignore[no-untyped-call]
        self.text, self.label = Linear.of(text, self.whole.bias, self.ops), Linear.of(label, None, self.ops)
        del self.whole

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch, activation: str) -> Tensor:
        return self.ops.pair_add(self.text(text), self.label(labels), batch.label_text, activation)
