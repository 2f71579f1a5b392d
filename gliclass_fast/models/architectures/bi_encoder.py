"""`bi-encoder`: one tower reads the text, another reads every label; the scorer compares their vectors.

The vectors of labels depend on nothing else, so they come with the batch (see engine/label_cache.py). Each is
that of the label alone, whereas the reference pools over the padding that other labels of a call add.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint, Weights, affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.architectures import Output, Size, VectorsOf
from gliclass_fast.models.architectures.base import EMBEDDINGS, IDS, IDS_OF_LABELS, GLiClassArchitecture
from gliclass_fast.models.encoders import ENCODER_ONLY
from gliclass_fast.models.pooling import Projector
from gliclass_fast.models.scorers import SCORERS
from gliclass_fast.models.tower import Tower
from gliclass_fast.ops import Ops, OpsOf
from gliclass_fast.text.padded import PaddedInputs
from gliclass_fast.text.readers import LabelVectors, Reader, TextAlone

PROBE_LABEL_TOKENS = 16
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


class Heads(nn.Module):
    """Projects texts and labels; `bridge` first brings label vectors to the width of the text tower."""

    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        self.text, self.label = Projector(config, ops), Projector(config, ops)
        self.bridge = Projector(config, ops, config.label_backbone_config.hidden_size)
        self.logit_scale = nn.Parameter(torch.empty(()), requires_grad=False)


class Architecture(GLiClassArchitecture):
    parts = ("label_backbone",)
    call_positions = (
        *IDS, *IDS_OF_LABELS, "labels_mask", "labels", *EMBEDDINGS, "return_dict", "adapter_ids",
    )  # fmt: skip
    takes_slot_axis = True
    needs_markers = False
    adapted = ("texts",)
    ignored = ("use_lstm", "squeeze_layers", "encoder_layer_id", "use_segment_embeddings")
    score_recordable = False  # labels come as vectors, outside the block of a batch

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        super().__init__(config, ops, checkpoint, ops_of)
        assert config.label_model_type is not None
        pooling, text_ops = config.pooling_strategy, ops_of(config.backbone_config)
        label_ops = ops_of(config.label_backbone_config)
        self.texts = Tower(config.model_type, config.backbone_config, pooling, ops, text_ops)
        self.labels = Tower(config.label_model_type, config.label_backbone_config, pooling, ops, label_ops)
        self.encode_recordable = text_ops.recordable and not self.encodes_labels
        self.heads = Heads(config, ops)

    @classmethod
    def backbones(cls) -> list[str]:
        """Lists the backbones of both towers."""
        return list(ENCODER_ONLY)

    @classmethod
    def scorers(cls) -> list[str]:
        """Lists the scorers of one text vector: the reference cannot pool labels for the other one."""
        return [name for name in SCORERS if name != "cross-attn"]

    def load_weights(self, checkpoint: Checkpoint) -> None:
        self.texts.load_weights(checkpoint, "model.encoder_model.")
        self.labels.load_weights(checkpoint, "model.label_encoder.")
        checkpoint.load_weights(self.heads, HEAD_WEIGHTS, "model.")
        self.load_comparison(checkpoint)
        checkpoint.assert_all_used()

    def label_vectors(self, batch: PackedBatch) -> Tensor:
        """Returns the vectors of labels, one per sequence of the batch, [N, C]."""
        pooled = self.labels.pool(self.labels.encode(batch), batch)
        return self.normalized(self.heads.label(self.heads.bridge(pooled)))

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        return self.texts.encode(batch)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Compares the texts with the vectors that the batch brings."""
        assert batch.label_vectors is not None
        return self._compare(self.texts.pool(encoded, batch), batch.label_vectors, batch)

    def _compare(self, pooled: Tensor, labels: Tensor, batch: PackedBatch) -> Output:
        texts = self.normalized(self.heads.text(pooled))
        return self.compare(texts, labels, batch, self.heads.logit_scale)

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        assert label_vectors is not None
        return TextAlone(tokenizer, label_vectors)

    def prompts_of_padded(
        self, inputs: PaddedInputs, most_labels: int, label_vectors: VectorsOf
    ) -> list[EncodedPrompt]:
        labels, of_text = inputs.labels()
        vectors = label_vectors([EncodedPrompt.of_text(ids, 1) for ids in labels])
        texts = self._padded_texts(inputs, [len(places) for places in of_text])
        return [
            replace(text, label_vectors=vectors[places]) for text, places in zip(texts, of_text, strict=True)
        ]

    def _padded_texts(self, inputs: PaddedInputs, counts: list[int]) -> list[EncodedPrompt]:
        return [EncodedPrompt.of_text(ids, count) for ids, count in zip(inputs.texts(), counts, strict=True)]

    def probe(self, sizes: Sequence[Size], label_vectors: VectorsOf) -> list[EncodedPrompt]:
        prompts = super().probe(sizes, label_vectors)
        rng, most = np.random.default_rng(0), max(each.num_labels for each in prompts)
        vocabulary = self.config.label_backbone_config.vocab_size
        ids = rng.integers(0, vocabulary, (most, PROBE_LABEL_TOKENS), dtype=np.int32)
        vectors = label_vectors([EncodedPrompt.of_text(row, 1) for row in ids])
        return [replace(each, label_vectors=vectors[: each.num_labels]) for each in prompts]
