"""Backbones, one file per Hugging Face `model_type`; each has WEIGHTS, UNUSED, Config.from_hf and Encoder.

`Encoder.states(batch)` yields the embedding output and then every layer's output, [T, C] each, so that a
caller who needs layer k stops there. `Encoder.fold()` runs once after the weights are in and makes what
depends on weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from gliclass_fast.batch import PackedBatch


class Encoder(Protocol):
    """What an architecture asks of a backbone."""

    def states(self, batch: PackedBatch, segments: Tensor | None = None) -> Iterator[Tensor]:
        """Embedding output, then each layer's; segments: a table [3, C] added per `batch.segments`."""
        ...

    def fold(self) -> None:
        """Makes the products of weights alone."""
        ...
