"""Scorers: each file holds WEIGHTS and Scorer for one `scorer_type`.

A scorer that does not go with every option refuses the others by its `check`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Weights
from gliclass_fast.config import POOLINGS, ModelConfig, UnsupportedConfigError
from gliclass_fast.models.registry import Registry

FIXED_HIDDEN_SIZE = 256  # of `mlp` and `hopfield`, for which the reference ignores `scorer_mlp_hidden_size`


class Scorer(nn.Module):
    """Says what an architecture asks of a scorer."""

    reads_rows: ClassVar[bool] = False  # of a text, and not one vector of it: it needs the pooling "pass"
    __call__: Callable[..., Tensor]

    @classmethod
    def check(cls, config: ModelConfig, given: Mapping[str, Any]) -> None:
        """Raises UnsupportedConfigError for options that do not go with it; given: what config.json holds."""

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        """Returns logits [L], in the labels' dtype.

        text: one vector per prompt, [N, C], or, where it `reads_rows`, every row of the packed batch, [T, C].
        labels: [L, C].
        """
        raise NotImplementedError


ScorerType = type[Scorer]


class ScorerModule(Protocol):
    """Says what a file of this folder holds."""

    WEIGHTS: Weights

    Scorer: ScorerType


SCORERS: Registry[ScorerModule] = Registry(
    "scorer_type", __name__, ("cross-attn", "hopfield", "mlp", "simple", "weighted-dot")
)


def check_scorer(config: ModelConfig, given: Mapping[str, Any]) -> None:
    """Raises UnsupportedConfigError where other options do not go with the scorer, as `Scorer.check` does."""
    scorer = SCORERS[config.scorer_type].Scorer
    supported = ("pass",) if scorer.reads_rows else POOLINGS[:-1]
    if config.pooling_strategy not in supported:
        raise UnsupportedConfigError(
            f"scorer_type={config.scorer_type!r} with pooling_strategy={config.pooling_strategy!r} is not "
            f"supported; supported: {', '.join(supported)}"
        )
    scorer.check(config, given)
