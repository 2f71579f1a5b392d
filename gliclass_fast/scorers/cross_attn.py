"""`cross-attn`: every label attends to the rows of its text, then a GELU network over [norm(out(context));
label].

Queries come from q_norm(label), keys from kv_norm(text), values from the text without a norm; there is no
residual.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.config import ModelConfig
from gliclass_fast.ops import Ops
from gliclass_fast.representations import text_spans
from gliclass_fast.weights import affine

NORM_EPS = 1e-5
WEIGHTS = affine(
    {name: name for name in ("q_norm", "kv_norm", "norm", "q", "k", "v", "out")}
    | {"first": "score_mlp.0", "second": "score_mlp.2", "last": "score_mlp.4"}
)


class Scorer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.scorer_mlp_hidden_size
        self.ops, self.config, self.heads = ops, config, config.scorer_num_heads
        self.q_norm, self.kv_norm, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first = nn.Linear(2 * width, hidden)
        self.second = nn.Linear(hidden, hidden // 2)
        self.last = nn.Linear(hidden // 2, 1)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        q = self._project(self.q, self._normed(self.q_norm, labels))
        k = self._project(self.k, self._normed(self.kv_norm, text))
        v = self._project(self.v, text)
        spans = text_spans(batch, self.config)
        context = self.ops.cross_attention(q, k, v, batch.cu_labels, spans, batch.label_tiles)
        context = self._normed(self.norm, self.ops.linear(context, self.out.weight, self.out.bias))
        hidden = torch.cat((context, labels), dim=-1)
        hidden = self.ops.linear(hidden, self.first.weight, self.first.bias, "gelu")
        hidden = self.ops.linear(hidden, self.second.weight, self.second.bias, "gelu")
        return self.ops.linear(hidden, self.last.weight, self.last.bias)[:, 0]

    def _normed(self, norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return self.ops.layer_norm(x, norm.weight, norm.bias, NORM_EPS)

    def _project(self, linear: nn.Linear, x: Tensor) -> Tensor:
        return self.ops.linear(x, linear.weight, linear.bias).view(x.shape[0], self.heads, -1)
