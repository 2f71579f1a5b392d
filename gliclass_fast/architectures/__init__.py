"""Architectures, one file per `architecture_type`: a packed batch in, logits out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from gliclass_fast.batch import PackedBatch


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass gives; vectors are projected, and normalised where the model normalises."""

    logits: Tensor  # [L]
    uncalibrated_logits: Tensor | None  # [L], of models with a calibrator
    text_vectors: Tensor  # [N, C], or [T, C] with pooling "pass"
    label_vectors: Tensor  # [L, C]


class Architecture(Protocol):
    """What a model asks of an architecture; `forward` is `score(encode(batch), batch)`."""

    reads_host: bool  # whether a pass waits for values of the batch, so that it cannot be a CUDA graph

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """What `score` needs of the tokens, [T, C] each; reads no field of labels or prompts."""
        ...

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares labels and texts."""
        ...

    def forward(self, batch: PackedBatch) -> Output:
        """Scores a packed batch."""
        ...

    def empty_text_vector(self) -> Tensor:
        """What a slot without a token becomes after projection, [1, C]."""
        ...
