"""Scorers: each file holds WEIGHTS and Scorer for one `scorer_type`.

Where a scorer does not go with every option, its file also holds `check(config, given)`, which refuses the
others: `given` is what config.json holds. One that reads all rows of a text says so by READS_ROWS = True.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Weights
from gliclass_fast.config import POOLINGS, ModelConfig, UnsupportedConfigError
from gliclass_fast.models.registry import Registry
from gliclass_fast.ops import Ops

FIXED_HIDDEN_SIZE = 256  # of `mlp` and `hopfield`, for which the reference ignores `scorer_mlp_hidden_size`


class Scorer(nn.Module):
    """Says what an architecture asks of a scorer."""

    __call__: Callable[..., Tensor]

    def forward(self, text: Tensor, labels: Tensor, batch: PackedBatch) -> Tensor:
        """Returns logits [L], in the labels' dtype.

        text: one vector per prompt, [N, C], or, for the cross-attn scorer, every row of the packed batch,
        [T, C]. labels: [L, C].
        """
        raise NotImplementedError


class ScorerModule(Protocol):
    """Says what a file of this folder holds."""

    WEIGHTS: Weights

    Scorer: Callable[[ModelConfig, Ops], Scorer]


SCORERS: Registry[ScorerModule] = Registry(
    "scorer_type", __name__, ("cross-attn", "hopfield", "mlp", "simple", "weighted-dot")
)


def check_scorer(config: ModelConfig, given: Mapping[str, Any]) -> None:
    """Raises UnsupportedConfigError where other options do not go with the scorer; for `given` see above."""
    module = SCORERS[config.scorer_type]
    supported = ("pass",) if getattr(module, "READS_ROWS", False) else POOLINGS[:-1]
    if config.pooling_strategy not in supported:
        raise UnsupportedConfigError(
            f"scorer_type={config.scorer_type!r} with pooling_strategy={config.pooling_strategy!r} is not "
            f"supported; supported: {', '.join(supported)}"
        )
    if (check := getattr(module, "check", None)) is not None:
        check(config, given)
