"""GliZNet: text and labels go through one encoder together, every label followed by a [LAB] token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import component
from gliclass_fast.models.architectures import OpsOf, Output
from gliclass_fast.models.architectures.bi_encoder import backbones
from gliclass_fast.models.encoders import last_state
from gliclass_fast.models.gliznet.config import GliznetConfig
from gliclass_fast.models.gliznet.heads import Head, Parts
from gliclass_fast.ops import Ops

__all__ = ["Architecture", "backbones", "scorers"]

# of training alone, and a scale that only cosine scores use
UNUSED = ("loss_fn.*", "aggregator.similarity_head.logit_scale")


def scorers() -> list[str]:
    """Its own, which `gliznet_heads.py` tells apart by the tensors."""
    return []


class Architecture(nn.Module):
    def __init__(self, config: GliznetConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        """checkpoint: asked which variant of GliZNet its tensors are of."""
        super().__init__()
        self.config, encoder_ops = config, ops_of(config.encoder)
        self.encode_recordable = encoder_ops.recordable
        self.score_recordable = encoder_ops.recordable and ops.recordable
        self.encoder = component("encoders", config.model_type).Encoder(config.encoder, encoder_ops)
        self.head = Head(config, Parts.of(checkpoint), ops)

    @property
    def encoders(self) -> list[nn.Module]:
        return [self.encoder]

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Takes all tensors out of a checkpoint; raises CheckpointError unless all match."""
        encoder = component("encoders", self.config.model_type)
        checkpoint.fill(self.encoder, encoder.WEIGHTS, "backbone.", device, dtype)
        self.head.fill(checkpoint, device, dtype)
        checkpoint.close(ignored=[*UNUSED, *(f"backbone.{name}" for name in encoder.UNUSED)])

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        return (last_state(self.encoder.states(batch)),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        output: Output = self.head(encoded[0], batch)
        return output

    def forward(self, batch: PackedBatch) -> Output:
        return self.score(self.encode(batch), batch)
