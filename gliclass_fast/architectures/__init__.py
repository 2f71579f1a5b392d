"""Architectures, one file per `architecture_type`: a packed batch in, logits out.

Each has PARTS (what it reads of config.json beside the encoder), RESIZES_VOCABULARY (whether the reference
brings the encoder's embedding to config.json's own vocabulary size), `backbones` and `scorers` (those it goes
with), `check` (raises UnsupportedConfigError for other options it does not have) and Architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

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

    encoders: list[nn.Module]  # whose linear maps may run in another precision
    recordable: bool  # whether a pass can be a CUDA graph: it waits for no value, and reads the block alone

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
