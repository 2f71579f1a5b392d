"""Architectures, one file per `architecture_type`: a packed batch in, logits out.

Each has PARTS (what it reads of config.json beside the encoder), RESIZES_VOCABULARY (whether the reference
brings the encoder's embedding to config.json's own vocabulary size), `backbones` and `scorers` (those it goes
with), `check` (raises UnsupportedConfigError for other options it does not have) and Architecture. GliZNet,
which has a config.json of its own kind, has `backbones` and Architecture alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import ModelConfig, component
from gliclass_fast.models import calibrator
from gliclass_fast.ops import Ops

OpsOf = Callable[[Any], Ops]  # the operations of a backbone, from its own Config


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass gives; vectors are projected, and normalised where the model normalises."""

    logits: Tensor  # [L]
    uncalibrated_logits: Tensor | None  # [L], of models with a calibrator
    text_vectors: Tensor  # [N, C], [T, C] with pooling "pass", [L, C] of GliZNet
    label_vectors: Tensor  # [L, C]


class Architecture(Protocol):
    """What a model asks of an architecture; `forward` is `score(encode(batch), batch)`.

    Bi-encoders also have `label_vectors(batch)`: the vectors of labels that are sequences of their own.
    """

    encoders: list[nn.Module]  # whose linear maps may run in another precision
    # Whether they can be CUDA graphs: they wait for no value and read nothing but the block of a batch;
    # `encode`, of that only what there is per token (not cu_seqlens, whose length is another's).
    encode_recordable: bool
    score_recordable: bool  # only where `encode` is

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Takes its tensors out of a checkpoint; raises CheckpointError unless all match."""
        ...

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """What `score` needs of the tokens, [T, C] each."""
        ...

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares labels and texts."""
        ...

    def forward(self, batch: PackedBatch) -> Output:
        """Scores a packed batch."""
        ...


class Comparison(nn.Module):
    """What ends every GLiClass architecture: a scorer, and a calibrator where there is one."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.scorer_type = config.scorer_type
        self.scorer = component("scorers", config.scorer_type).Scorer(config, ops)
        self.calibrator = calibrator.Calibrator(config, ops) if config.use_calibrator else None

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        weights = component("scorers", self.scorer_type).WEIGHTS
        checkpoint.fill(self.scorer, weights, "model.scorer.", device, dtype)
        if self.calibrator is not None:
            checkpoint.fill(self.calibrator, calibrator.WEIGHTS, "calibrator.", device, dtype)

    def forward(self, texts: Tensor, labels: Tensor, batch: PackedBatch, scale: Tensor | None) -> Output:
        """scale: of the logits, where the model has one."""
        logits = self.scorer(texts, labels, batch)
        if scale is not None:
            logits = logits * scale
        if self.calibrator is None:
            return Output(logits, None, texts, labels)
        return Output(self.calibrator(texts, labels, logits, batch), logits, texts, labels)
