"""`encoder-decoder`: the encoder reads the text, the decoder the labels, in both directions.

`encoder-decoder-cls` is the same with the parts exchanged; it has a file of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.config import ModelConfig, component, refuse, supported
from gliclass_fast.models.architectures import Comparison, OpsOf, Output
from gliclass_fast.models.architectures.uni_encoder import HEAD_WEIGHTS, Heads
from gliclass_fast.models.encoders import last_state
from gliclass_fast.models.pooling import pool_labels, pool_whole, unit, whole
from gliclass_fast.ops import Ops

PARTS = ("decoder",)
RESIZES_VOCABULARY = False


def backbones() -> list[str]:
    return supported("decoders")


def scorers() -> list[str]:
    """All but the one whose softmax over labels would, in the reference, run over empty slots."""
    return [name for name in supported("scorers") if name != "hopfield"]


def check(config: ModelConfig) -> None:
    """Refuses what the reference would ignore here."""
    refuse(
        config,
        config.architecture_type,
        squeeze_layers=False,
        encoder_layer_id=-1,
        use_segment_embeddings=False,
    )


class Architecture(nn.Module):
    score_recordable = False  # labels come as a batch of their own
    causal = False

    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        super().__init__()
        self.config, self.ops, encoder_ops = config, ops, ops_of(config.encoder)
        self.encode_recordable = encoder_ops.recordable and not self.causal
        self.encoder = component("encoders", config.model_type).Encoder(config.encoder, encoder_ops)
        self.decoder = component("decoders", config.model_type).Decoder(
            config.decoder, encoder_ops, self.causal
        )
        self.heads = Heads(config, ops, mixed_layers=0)
        self.comparison = Comparison(config, ops)

    @property
    def encoders(self) -> list[nn.Module]:
        return [self.encoder, self.decoder]

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Takes this architecture's tensors out of a checkpoint; raises CheckpointError unless all match."""
        prefix, model_type = "model.encoder_decoder_model.", self.config.model_type
        encoder, decoder = component("encoders", model_type), component("decoders", model_type)
        checkpoint.fill(self.encoder, encoder.WEIGHTS, prefix, device, dtype)
        checkpoint.fill(self.decoder, decoder.WEIGHTS, prefix, device, dtype)
        checkpoint.fill(self.heads, HEAD_WEIGHTS, "model.", device, dtype)
        self.comparison.fill(checkpoint, device, dtype)
        self.decoder.words.weight = self.encoder.words.weight  # one table, not two
        checkpoint.close(ignored=[f"{prefix}{name}" for name in (*encoder.UNUSED, *decoder.UNUSED)])

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """The encoder's last states, of the text."""
        return (last_state(self.encoder.states(batch)),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Reads the labels in the light of the text and compares them."""
        assert batch.label_prompts is not None
        rows, spans = encoded[0], whole(batch)
        decoded = self.decoder(batch.label_prompts, rows, spans)
        if self.heads.lstm is not None:
            rows = self.heads.lstm(rows, spans)
        pooled = pool_whole(rows, batch, self.config.pooling_strategy, self.ops)
        return self._compare(pooled, decoded, batch)

    def _compare(self, pooled: Tensor, label_rows: Tensor, batch: PackedBatch) -> Output:
        assert batch.label_prompts is not None
        heads, config = self.heads, self.config
        labels = pool_labels(label_rows, batch.label_prompts, config, self.ops)
        texts, labels = self._normalized(heads.text_projector(pooled)), heads.label_projector(labels)
        labels = self._normalized(labels)
        scale = heads.logit_scale if config.normalize_features else None
        output: Output = self.comparison(texts, labels, batch, scale)
        return output

    def forward(self, batch: PackedBatch) -> Output:
        return self.score(self.encode(batch), batch)

    def _normalized(self, vectors: Tensor) -> Tensor:
        return unit(vectors) if self.config.normalize_features else vectors
