"""Scorers: each file holds WEIGHTS and Scorer for one `scorer_type`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Weights
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.registry import Registry
from gliclass_fast.ops import Ops


class Scorer(Protocol):
    """Says what an architecture asks of a scorer."""

    def __call__(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        """Returns logits [L], in the labels' dtype.

        text: one vector per prompt, [N, C], or, for the cross-attn scorer, every row of the packed batch,
        [T, C]. labels: [L, C].
        """
        ...


class ScorerModule(Protocol):
    """Says what a file of this folder holds."""

    WEIGHTS: Weights

    Scorer: Callable[[ModelConfig, Ops], Any]  # makes a `Scorer`, as a module


SCORERS: Registry[ScorerModule] = Registry(
    "scorer_type", __name__, ("cross-attn", "hopfield", "mlp", "simple", "weighted-dot")
)
