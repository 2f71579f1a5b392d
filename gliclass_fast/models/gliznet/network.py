"""GliZNet: text and labels go through one backbone together, and a [LAB] token follows every label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.models.architectures import Network, Output, Size, VectorsOf
from gliclass_fast.models.architectures.base import random_prompts
from gliclass_fast.models.encoders import ENCODER_ONLY, ENCODERS
from gliclass_fast.models.gliznet.aggregator import Aggregator, Parts
from gliclass_fast.models.gliznet.config import GliznetConfig
from gliclass_fast.ops import Ops, OpsOf
from gliclass_fast.text.readers import LabelVectors, Reader, SeparatedLabels

# these are tensors of training alone, and a scale that only cosine scores use
UNUSED = ("loss_fn.*", "aggregator.similarity_head.logit_scale")


class Architecture(Network):
    config: GliznetConfig

    def __init__(self, config: GliznetConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        """Asks the checkpoint which variant of GliZNet its tensors are of."""
        super().__init__(config, ops, checkpoint, ops_of)
        backbone_ops = ops_of(config.backbone_config)
        self.encode_recordable = backbone_ops.recordable
        self.score_recordable = backbone_ops.recordable and ops.recordable
        self.backbone = ENCODERS[config.model_type].Encoder(config.backbone_config, backbone_ops)
        self.aggregator = Aggregator(config, Parts.of(checkpoint), ops)

    @classmethod
    def backbones(cls) -> list[str]:
        return list(ENCODER_ONLY)

    @classmethod
    def scorers(cls) -> list[str]:
        """Lists none: GliZNet has scores of its own, which `aggregator.py` tells apart by the tensors."""
        return []

    def load_weights(self, checkpoint: Checkpoint) -> None:
        module = ENCODERS[self.config.model_type]
        checkpoint.load_weights(self.backbone, module.WEIGHTS, "backbone.", module.UNUSED)
        self.aggregator.load_weights(checkpoint)
        checkpoint.assert_all_used(ignored=UNUSED)

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        return (self.backbone.last_state(batch),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        output: Output = self.aggregator(encoded[0], batch)
        return output

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        return SeparatedLabels(tokenizer, self.config.lab_token_id, needs_label_tokens=self.aggregator.means)

    def probe(self, sizes: Sequence[Size], label_vectors: VectorsOf) -> list[EncodedPrompt]:
        return random_prompts(self.config.backbone_config, sizes, (self.config.lab_token_id,) * 2)

    def text_embeddings(self, rows: Tensor, batch: PackedBatch) -> list[Tensor]:
        """A text has a vector per label, [labels, C]."""
        return [rows[start:end] for start, end in pairwise(batch.cu_labels.tolist())]

    def description(self) -> dict[str, str]:
        parts = self.aggregator.parts
        return {
            "architecture": f"gliznet, variant {parts.variant}",
            "backbone": self.config.model_type,
            "scorer": parts.score,
        }
