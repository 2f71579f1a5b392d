"""`mlp`: a three-layer ReLU network over [text; label].

The first layer is a sum of a text part, computed once per prompt, and a label part. Its width is always 256:
the reference swallows `scorer_mlp_hidden_size` for this scorer.
"""

from __future__ import annotations

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.config import ModelConfig
from gliclass_fast.ops import Ops
from gliclass_fast.weights import affine

HIDDEN = 256
WEIGHTS = affine({"first": "mlp.0", "second": "mlp.2", "last": "mlp.4"})


class Scorer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.ops = ops
        self.first = PairLinear(config.hidden_size, config.hidden_size, HIDDEN, ops)
        self.second = nn.Linear(HIDDEN, HIDDEN // 2)
        self.last = nn.Linear(HIDDEN // 2, 1)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        hidden = self.ops.activation(self.first(text, labels, batch), "relu")
        hidden = self.ops.linear(hidden, self.second.weight, self.second.bias, "relu")
        return self.ops.linear(hidden, self.last.weight, self.last.bias)[:, 0]


class PairLinear(nn.Module):
    """weight @ [text; label] + bias for every label, [L, out]; the text half runs once per prompt."""

    def __init__(self, text_width: int, label_width: int, out: int, ops: Ops) -> None:
        super().__init__()
        self.ops, self.text_width = ops, text_width
        self.weight = nn.Parameter(Tensor(out, text_width + label_width), requires_grad=False)
        self.bias = nn.Parameter(Tensor(out), requires_grad=False)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        of_text = self.ops.linear(text, self.weight[:, : self.text_width], self.bias)
        return of_text[batch.label_text] + self.ops.linear(labels, self.weight[:, self.text_width :], None)
