"""`mlp`: a three-layer ReLU network over [text; label].

The first layer is a sum of a text part, computed once per prompt, and a label part. Its width is always 256:
the reference swallows `scorer_mlp_hidden_size` for this scorer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.layers import linear_of
from gliclass_fast.ops import Ops

HIDDEN = 256
WEIGHTS = affine({"first.whole": "mlp.0", "second": "mlp.2", "last": "mlp.4"})


class Scorer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.first = PairLinear(config.hidden_size, config.hidden_size, HIDDEN, ops)
        self.second = nn.Linear(HIDDEN, HIDDEN // 2)
        self.last = nn.Linear(HIDDEN // 2, 1)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        hidden = self.first(text, labels, batch, "relu")
        hidden = self.ops.linear(hidden, self.second.weight, self.second.bias, "relu")
        return self.ops.linear(hidden, self.last.weight, self.last.bias)[:, 0]


class PairLinear(nn.Module):
    """activation(weight @ [text; label] + bias) per label, [L, out]; the text half runs once per prompt."""

    def __init__(self, text_width: int, label_width: int, out: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.widths = ops, (text_width, label_width)
        self.whole = nn.Linear(text_width + label_width, out)

    def fold(self) -> None:
        """Splits the layer into its text half, with the bias, and its label half."""
        text, label = torch.split(self.whole.weight, list(self.widths), dim=1)  # type: ignore[no-untyped-call]
        self.text, self.label = linear_of(text, self.whole.bias), linear_of(label, None)
        del self.whole

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch, activation: str) -> Tensor:
        of_text = self.ops.linear(text, self.text.weight, self.text.bias)
        of_labels = self.ops.linear(labels, self.label.weight, None)
        return self.ops.pair_add(of_text, of_labels, batch.label_text, activation)
