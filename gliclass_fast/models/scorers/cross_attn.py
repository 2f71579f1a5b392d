"""`cross-attn`: every label attends to the rows of its text, then a GELU network reads
[norm(out(context)); label].

Queries come from q_norm(label), keys from kv_norm(text), and values from the text without a norm; there is no
residual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig, UnsupportedConfigError
from gliclass_fast.models import scorers
from gliclass_fast.models.layers import Linear, Norm, NormLinear
from gliclass_fast.models.pooling import text_spans
from gliclass_fast.ops import Ops

NORM_EPS = 1e-5
WEIGHTS = affine(
    {"q.norm": "q_norm", "q.linear": "q", "k.norm": "kv_norm", "k.linear": "k", "v": "v", "out": "out"}
    | {"norm": "norm", "first": "score_mlp.0", "second": "score_mlp.2", "last": "score_mlp.4"}
)


class Scorer(scorers.Scorer):
    reads_rows = True

    @classmethod
    def check(cls, config: ModelConfig, given: Mapping[str, Any]) -> None:
        if config.hidden_size % config.scorer_num_heads:
            raise UnsupportedConfigError(
                f"scorer_num_heads={config.scorer_num_heads} does not divide hidden_size={config.hidden_size}"
            )

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        width, hidden = config.hidden_size, config.scorer_mlp_hidden_size
        self.ops, self.config, self.num_heads = ops, config, config.scorer_num_heads
        self.q, self.k = (NormLinear(width, width, ops, NORM_EPS) for _ in range(2))
        self.v, self.out = (Linear(width, width, ops) for _ in range(2))
        self.norm = Norm(width, ops, NORM_EPS)
        self.first = Linear(2 * width, hidden, ops)
        self.second = Linear(hidden, hidden // 2, ops)
        self.last = Linear(hidden // 2, 1, ops)

    def fold_weights(self) -> None:
        """Splits the network's first layer: one part reads the normed context, the other the label."""
        of_context, of_labels = self.first.weight.chunk(2, dim=1)
        with torch.device("meta"):  # It draws no numbers there.
            self.context = NormLinear(1, 1, self.ops, NORM_EPS)
        self.context.norm = self.norm
        self.context.linear = Linear.of(of_context, None, self.ops)
        self.context.fold_weights()
        self.first = Linear.of(of_labels, self.first.bias, self.ops)
        del self.norm

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        q, k, v = self.q(labels), self.k(text), self.v(text)
        q, k, v = (x.view(x.shape[0], self.num_heads, -1) for x in (q, k, v))
        sequences = batch.label_sequences(text_spans(batch, self.config))
        context = self.out(self.ops.cross_attention(q, k, v, sequences))
        hidden = self.first(labels)
        hidden = self.context(context, "gelu", add=hidden)
        hidden = self.second(hidden, "gelu")
        return self.last(hidden)[:, 0]
