"""`encoder-decoder`: the encoder reads the text, and the decoder reads the labels in both directions.

`encoder-decoder-cls` exchanges the two parts; it has a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt, PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.architectures import Output, Size, VectorsOf
from gliclass_fast.models.architectures.base import (
    EMBEDDINGS,
    IDS,
    IDS_OF_LABELS,
    STATES,
    GLiClassArchitecture,
)
from gliclass_fast.models.decoders import DECODERS, Encoded
from gliclass_fast.models.encoders import ENCODERS
from gliclass_fast.models.heads import HEAD_WEIGHTS, Heads
from gliclass_fast.models.pooling import pool_labels, pool_whole, whole
from gliclass_fast.models.scorers import SCORERS
from gliclass_fast.ops import Ops, OpsOf
from gliclass_fast.text.padded import PaddedInputs, marked_prompt
from gliclass_fast.text.readers import LabelVectors, Reader, TwoSequences

_PREFIX = "model.encoder_decoder_model."
_OWN_WORDS = ("decoder.embed_tokens.weight",)  # the decoder's, which else reads `shared`


class Architecture(GLiClassArchitecture):
    parts = ("decoder",)
    call_positions = (
        *IDS, *IDS_OF_LABELS, "inputs_embeds", "labels", *STATES, *EMBEDDINGS, "return_dict",
    )  # fmt: skip
    adapted = ("encoder", "decoder")
    ignored: tuple[str, ...] = ("squeeze_layers", "encoder_layer_id", "use_segment_embeddings")
    score_recordable = False  # labels come as a batch of their own
    causal = False

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        super().__init__(config, ops, checkpoint, ops_of)
        backbone_ops = ops_of(config.backbone_config)
        self.encode_recordable = backbone_ops.recordable and not self.causal
        self.encoder = ENCODERS[config.model_type].Encoder(config.backbone_config, backbone_ops)
        decoder = DECODERS[config.model_type]
        self.decoder = decoder.Decoder(config.decoder_config, backbone_ops, self.causal)
        self.heads = Heads(config, ops, mixed_layers=0)

    @classmethod
    def backbones(cls) -> list[str]:
        return list(DECODERS)

    @classmethod
    def scorers(cls) -> list[str]:
        """Lists all but the one whose softmax over labels would, in the reference, run over empty slots."""
        return [name for name in SCORERS if name != "hopfield"]

    def load_weights(self, checkpoint: Checkpoint) -> None:
        encoder, decoder = ENCODERS[self.config.model_type], DECODERS[self.config.model_type]
        checkpoint.load_weights(self.encoder, encoder.WEIGHTS, _PREFIX, encoder.UNUSED)
        own = checkpoint.shape(f"{_PREFIX}{_OWN_WORDS[0]}") is not None  # files may leave it out
        words = {"word_embeddings.weight": _OWN_WORDS} if own else {}
        checkpoint.load_weights(self.decoder, {**decoder.WEIGHTS, **words}, _PREFIX, decoder.UNUSED)
        checkpoint.load_weights(self.heads, HEAD_WEIGHTS, "model.")
        self.load_comparison(checkpoint)
        checkpoint.assert_all_used()
        if torch.equal(self.decoder.word_embeddings.weight, self.encoder.word_embeddings.weight):
            self.decoder.word_embeddings.weight = self.encoder.word_embeddings.weight  # both share one table

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Returns the encoder's last hidden states of the text, [T, C]."""
        return (self.encoder.last_state(batch),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Reads the labels in the light of the text and compares them."""
        assert batch.label_prompts is not None
        rows, spans = encoded[0], whole(batch)
        decoded = self.decoder(batch.label_prompts, Encoded(rows, spans, batch.adapter_rows))
        if self.heads.lstm is not None:
            rows = self.heads.lstm(rows, spans)
        pooled = pool_whole(rows, batch, self.config.pooling_strategy, self.ops)
        return self._compare(pooled, decoded, batch)

    def _compare(self, pooled: Tensor, label_rows: Tensor, batch: PackedBatch) -> Output:
        assert batch.label_prompts is not None
        labels = pool_labels(label_rows, batch.label_prompts, self.config, self.ops)
        texts, labels = map(self.normalized, self.heads.project(pooled, labels))
        return self.compare(texts, labels, batch, self.heads.scale)

    def reader(self, tokenizer: Any, label_vectors: LabelVectors | None) -> Reader:
        return TwoSequences(tokenizer, self.config)

    def prompts_of_padded(
        self, inputs: PaddedInputs, most_labels: int, label_vectors: VectorsOf
    ) -> list[EncodedPrompt]:
        labels = [marked_prompt(ids, self.config, most_labels) for ids in inputs.label_prompts()]
        return [
            EncodedPrompt.of_text(ids, own.num_labels, label_prompt=own)
            for ids, own in zip(inputs.texts(), labels, strict=True)
        ]

    def probe(self, sizes: Sequence[Size], label_vectors: VectorsOf) -> list[EncodedPrompt]:
        return [replace(each, label_prompt=each) for each in super().probe(sizes, label_vectors)]
