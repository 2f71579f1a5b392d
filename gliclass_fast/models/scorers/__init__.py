"""Scorers, one file per `scorer_type`; each has WEIGHTS and Scorer(config, ops).

`Scorer.forward(text, labels [L, C], batch) -> logits [L]`, where text is one vector per prompt [N, C], or,
for the cross-attn scorer, every row of the packed batch [T, C].
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gliclass_fast.batch import PackedBatch


class Scorer(Protocol):
    """What an architecture asks of a scorer."""

    def __call__(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        """Logits [L], in the labels' dtype."""
        ...
