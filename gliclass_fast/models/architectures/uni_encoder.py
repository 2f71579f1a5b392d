"""`uni-encoder`: text and labels go through one backbone together, then a scorer compares them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.architectures import Output, VectorsOf
from gliclass_fast.models.architectures.base import EMBEDDINGS, IDS, STATES, GLiClassArchitecture
from gliclass_fast.models.encoders import ENCODERS
from gliclass_fast.models.heads import HEAD_WEIGHTS, Heads
from gliclass_fast.models.pooling import (
    LayerMixer,
    normalize_plus_eps,
    pool_labels,
    pool_text,
    text_spans,
)
from gliclass_fast.models.scorers import SCORERS
from gliclass_fast.ops import Ops, OpsOf
from gliclass_fast.text.padded import PaddedInputs, marked_prompt
from gliclass_fast.text.readers import LabelVectors, OneSequence, Reader


class Architecture(GLiClassArchitecture):
    resizes_vocabulary = True
    normalization = staticmethod(normalize_plus_eps)
    call_positions = (
        *IDS, "inputs_embeds", "labels", *STATES, *EMBEDDINGS, "return_dict", "max_num_classes",
    )  # fmt: skip

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        """Asks the checkpoint only for the number of layers that the mixer was made for."""
        super().__init__(config, ops, checkpoint, ops_of)
        backbone_ops = ops_of(config.backbone_config)
        self.encode_recordable = backbone_ops.recordable
        self.score_recordable = backbone_ops.recordable and ops.recordable and not config.use_lstm
        gates = checkpoint.shape("model.layer_wise_attention.W2.weight")
        layers = config.backbone_config.num_hidden_layers
        self.backbone = ENCODERS[config.model_type].Encoder(config.backbone_config, backbone_ops)
        self.heads = Heads(config, ops, gates[0] if gates else layers)

    @classmethod
    def backbones(cls) -> list[str]:
        """Lists all but BART, whose decoder the reference would run too."""
        return [name for name in ENCODERS if name != "bart"]

    @classmethod
    def scorers(cls) -> list[str]:
        return list(SCORERS)

    def load_weights(self, checkpoint: Checkpoint) -> None:
        module = ENCODERS[self.config.model_type]
        checkpoint.load_weights(self.backbone, module.WEIGHTS, "model.encoder_model.", module.UNUSED)
        checkpoint.load_weights(self.heads, HEAD_WEIGHTS, "model.")
        self.load_comparison(checkpoint)
        checkpoint.assert_all_used()

    @property
    def mixer(self) -> LayerMixer | None:
        """Returns the mixer, or None where `encoder_layer_id` names a layer, which then counts alone."""
        return self.heads.mixer if self.config.encoder_layer_id == -1 else None

    @property
    def prunes_last_layer(self) -> bool:
        """Tells whether only rows of labels and texts are read, and only the last hidden state of them."""
        config, layers = self.config, self.config.backbone_config.num_hidden_layers
        return (
            config.pooling_strategy == config.class_token_pooling == "first"
            and config.encoder_layer_id in (-1, layers)
            and self.mixer is None
            and not config.use_lstm
            and layers > 1  # what follows the first layer of some backbones looks at neighbours
        )

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Returns what `score` needs of the backbone, [T, C] each; reads no field of labels or prompts."""
        if self.prunes_last_layer:
            x, attended = self.backbone.last_attention(batch, self.heads.segment_embeddings)
            return x, attended
        if self.mixer is not None:
            states = self.backbone.hidden_states(batch, self.heads.segment_embeddings)
            return tuple(state.clone() for state in states)
        wanted = self.config.encoder_layer_id % (self.config.backbone_config.num_hidden_layers + 1)
        return (self.backbone.state(wanted, batch, self.heads.segment_embeddings),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Returns logits and vectors, from what `encode` gave."""
        texts, labels = map(self.normalized, self.heads.project(*self._pool(encoded, batch)))
        return self.compare(texts, labels, batch, self.heads.scale)

    def _pool(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Returns what is projected: text rows [N, C] (or all, [T, C], for "pass") and label rows [L, C]."""
        config = self.config
        if self.prunes_last_layer:
            x, attended = (state.index_select(0, batch.first_rows) for state in encoded)
            adapters = batch.adapter_rows
            kept_adapters = None if adapters is None else adapters.at(batch.first_rows)
            rows = self.backbone.last_feed_forward(x, attended, kept_adapters)
            return rows[: batch.capacity.prompts], rows[batch.capacity.prompts :]
        rows = encoded[0] if self.mixer is None else self.mixer(encoded, batch)
        pooled_labels = pool_labels(rows, batch, config, self.ops)
        if self.heads.lstm is not None:
            rows = self.heads.lstm(rows, text_spans(batch, config))
        return pool_text(rows, batch, config, self.ops), pooled_labels

    def text_embeddings(self, rows: Tensor, batch: PackedBatch) -> list[Tensor]:
        """With pooling "pass", `extract_text_features` adds the reference's empty slot per earlier token."""
        config = self.config
        if config.pooling_strategy != "pass" or not config.extract_text_features:
            return super().text_embeddings(rows, batch)
        projector = self.heads.text_projector
        empty = self.normalized(projector(torch.zeros_like(projector.linear_2.bias)[None])).float().cpu()
        found = []
        for prompt, (start, end) in zip(batch.cu_seqlens.tolist(), batch.text_spans.tolist(), strict=False):
            others = 0 if config.use_lstm else start - prompt
            found.append(torch.cat((rows[start:end], empty.expand(others, -1))))
        return found

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        return OneSequence(tokenizer, self.config)

    def prompts_of_padded(
        self, inputs: PaddedInputs, most_labels: int, label_vectors: VectorsOf
    ) -> list[EncodedPrompt]:
        return [marked_prompt(ids, self.config, most_labels) for ids in inputs.texts()]
