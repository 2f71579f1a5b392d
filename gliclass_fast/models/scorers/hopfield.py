"""`hopfield`: one retrieval step gives label + softmax_over_labels(4 * q(label) . k(text)) * v(text), which a
ReLU network reads.

The softmax runs over the labels of one prompt. (The reference's softmax runs over the padded label slots of
the batch, so its scores depend on what else is in the batch; for a text alone they agree.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig, UnsupportedConfigError
from gliclass_fast.models import scorers
from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Ops

BETA = 4.0
WEIGHTS = affine(
    {"q": "q_proj", "k": "k_proj", "v": "v_proj", "first": "mlp.0", "second": "mlp.2", "last": "mlp.4"}
)


class Scorer(scorers.Scorer):
    @classmethod
    def check(cls, config: ModelConfig, given: Mapping[str, Any]) -> None:
        if given.get("max_labels_alloc", "dynamic") != "dynamic":
            raise UnsupportedConfigError(
                f"max_labels_alloc={given['max_labels_alloc']!r} with scorer_type='hopfield': its softmax "
                "would run over empty slots; supported: 'dynamic'"
            )

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        width = config.hidden_size
        self.ops = ops
        self.q, self.k, self.v = (Linear(width, width, ops, bias=False) for _ in range(3))
        self.first = Linear(width, scorers.FIXED_HIDDEN_SIZE, ops)
        self.second = Linear(scorers.FIXED_HIDDEN_SIZE, scorers.FIXED_HIDDEN_SIZE // 2, ops)
        self.last = Linear(scorers.FIXED_HIDDEN_SIZE // 2, 1, ops)

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        owner = batch.label_text
        queries = self.q(labels)
        keys, values = self.k(text), self.v(text)
        similarity = self.ops.pair_dot(keys, queries, owner) * BETA
        share = self.ops.segment_softmax(similarity, batch.label_sequences(batch.text_spans))
        hidden = labels + share[:, None] * values[owner]
        hidden = self.first(hidden, "relu")
        hidden = self.second(hidden, "relu")
        return self.last(hidden)[:, 0]
