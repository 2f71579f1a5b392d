"""`bi-encoder`: a tower reads the text, another every label; the scorer compares their vectors.

The vectors of labels depend on nothing else, so they come with the batch (see `label_vectors.py`). They are
those of each label alone: the reference pools over what padding the other labels of a call add.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint, Weights, affine
from gliclass_fast.config import ModelConfig, refuse, supported
from gliclass_fast.models.architectures import Comparison, OpsOf, Output
from gliclass_fast.models.pooling import Projector, unit
from gliclass_fast.models.tower import Tower
from gliclass_fast.ops import Ops

PARTS = ("label_encoder",)
RESIZES_VOCABULARY = False
HEAD_WEIGHTS: Weights = {
    "logit_scale": ("logit_scale",),
    **affine(
        {
            f"{ours}.{linear}": f"{theirs}_projector.{linear}"
            for ours, theirs in (("text", "text"), ("bridge", "biencoder"), ("label", "classes"))
            for linear in ("linear_1", "linear_2")
        }
    ),
}


def backbones() -> list[str]:
    """Of both towers. The reference would run decoders too, and decoder-only models from left to right."""
    others = [*supported("decoders"), "llama", "qwen2"]
    return [name for name in supported("encoders") if name not in others]


def scorers() -> list[str]:
    """Those of one text vector: the reference cannot pool labels for the other."""
    return [name for name in supported("scorers") if name != "cross-attn"]


def check(config: ModelConfig) -> None:
    """Refuses what the reference would ignore here."""
    refuse(
        config,
        config.architecture_type,
        use_lstm=False,
        squeeze_layers=False,
        encoder_layer_id=-1,
        use_segment_embeddings=False,
    )


class Heads(nn.Module):
    """Projectors: of the text, of the label tower's vectors to the text tower's width, and of labels."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.text, self.label = Projector(config, ops), Projector(config, ops)
        self.bridge = Projector(config, ops, config.label_encoder.hidden_size)
        self.logit_scale = nn.Parameter(torch.empty(()), requires_grad=False)


class Architecture(nn.Module):
    score_recordable = False  # labels come as vectors, outside the block of a batch
    encodes_labels = False

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        super().__init__()
        self.config = config
        assert config.label_model_type is not None
        pooling, of_texts = config.pooling_strategy, ops_of(config.encoder)
        self.texts = Tower(config.model_type, config.encoder, pooling, ops, of_texts)
        self.labels = Tower(
            config.label_model_type, config.label_encoder, pooling, ops, ops_of(config.label_encoder)
        )
        self.encode_recordable = of_texts.recordable and not self.encodes_labels
        self.heads = Heads(config, ops)
        self.comparison = Comparison(config, ops)

    @property
    def encoders(self) -> list[nn.Module]:
        return [self.texts.backbone, self.labels.backbone]

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Takes this architecture's tensors out of a checkpoint; raises CheckpointError unless all match."""
        unused = self.texts.fill(checkpoint, "model.encoder_model.", device, dtype)
        unused += self.labels.fill(checkpoint, "model.label_encoder.", device, dtype)
        checkpoint.fill(self.heads, HEAD_WEIGHTS, "model.", device, dtype)
        self.comparison.fill(checkpoint, device, dtype)
        checkpoint.close(ignored=unused)

    def label_vectors(self, batch: PackedBatch) -> Tensor:
        """Vectors of labels, one per sequence of the batch, [N, C]."""
        pooled = self.labels.pool(self.labels.encode(batch), batch)
        return self._normalized(self.heads.label(self.heads.bridge(pooled)))

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        return self.texts.encode(batch)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares the texts with the vectors that the batch brings."""
        assert batch.label_vectors is not None
        return self._compare(self.texts.pool(encoded, batch), batch.label_vectors, batch)

    def _compare(self, pooled: Tensor, labels: Tensor, batch: PackedBatch) -> Output:
        texts = self._normalized(self.heads.text(pooled))
        output: Output = self.comparison(texts, labels, batch, self.heads.logit_scale)
        return output

    def forward(self, batch: PackedBatch) -> Output:
        return self.score(self.encode(batch), batch)

    def _normalized(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.config.normalize_features else vectors
