"""`uni-encoder`: text and labels go through one encoder together, then a scorer compares them."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import Checkpoint, Weights, affine
from gliclass_fast.config import ModelConfig, component, supported
from gliclass_fast.models import pooling
from gliclass_fast.models.architectures import Comparison, OpsOf, Output
from gliclass_fast.ops import Ops

PARTS: tuple[str, ...] = ()
RESIZES_VOCABULARY = True
HEAD_WEIGHTS: Weights = {
    "logit_scale": ("logit_scale",),
    "segments": ("segment_embeddings.weight",),
    **affine(
        {
            f"{ours}_projector.{linear}": f"{theirs}_projector.{linear}"
            for ours, theirs in (("text", "text"), ("label", "classes"))
            for linear in ("linear_1", "linear_2")
        }
    ),
    **affine(
        {
            f"mixer.{part}": f"layer_wise_attention.{part}"
            for part in ("squeeze", "W1", "W2", "output_projection")
        }
    ),
    **{
        f"lstm.lstm.{kind}_{side}_l0{way}": (f"lstm.lstm.{kind}_{side}_l0{way}",)
        for kind in ("weight", "bias")
        for side in ("ih", "hh")
        for way in ("", "_reverse")
    },
}


def backbones() -> list[str]:
    """All but BART, of which the reference would run the decoder too."""
    return [name for name in supported("encoders") if name != "bart"]


def scorers() -> list[str]:
    return supported("scorers")


def check(config: ModelConfig) -> None:
    """Has all options."""


class Heads(nn.Module):
    """Everything between encoder and scorer that has weights."""

    def __init__(self, config: ModelConfig, ops: Ops, mixed_layers: int) -> None:
        super().__init__()
        self.text_projector = pooling.Projector(config, ops)
        self.label_projector = pooling.Projector(config, ops)
        self.logit_scale = nn.Parameter(torch.empty(()), requires_grad=False)
        self.segments = None
        if config.use_segment_embeddings:
            self.segments = nn.Parameter(torch.empty(3, config.encoder.hidden_size), requires_grad=False)
        self.mixer = pooling.LayerMixer(config, ops, mixed_layers) if config.squeeze_layers else None
        self.lstm = pooling.TextLstm(config) if config.use_lstm else None


class Architecture(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint, ops_of: OpsOf) -> None:
        """checkpoint: asked only for the number of layers the mixer was made for."""
        super().__init__()
        self.config, self.ops, encoder_ops = config, ops, ops_of(config.encoder)
        self.encode_recordable = encoder_ops.recordable
        self.score_recordable = encoder_ops.recordable and ops.recordable and not config.use_lstm
        gates = checkpoint.shape("model.layer_wise_attention.W2.weight")
        layers = config.encoder.num_hidden_layers
        self.encoder = component("encoders", config.model_type).Encoder(config.encoder, encoder_ops)
        self.heads = Heads(config, ops, gates[0] if gates else layers)
        self.comparison = Comparison(config, ops)

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Takes this architecture's tensors out of a checkpoint; raises CheckpointError unless all match."""
        encoder = component("encoders", self.config.model_type)
        checkpoint.fill(self.encoder, encoder.WEIGHTS, "model.encoder_model.", device, dtype)
        checkpoint.fill(self.heads, HEAD_WEIGHTS, "model.", device, dtype)
        self.comparison.fill(checkpoint, device, dtype)
        checkpoint.close(ignored=[f"model.encoder_model.{name}" for name in encoder.UNUSED])

    @property
    def encoders(self) -> list[nn.Module]:
        return [self.encoder]

    @property
    def mixer(self) -> pooling.LayerMixer | None:
        """A given layer's state wins over a mixture of all."""
        return self.heads.mixer if self.config.encoder_layer_id == -1 else None

    @property
    def finishes_few_rows(self) -> bool:
        """Only rows of labels and texts are read, and only the last state of them."""
        config, layers = self.config, self.config.encoder.num_hidden_layers
        return (
            config.pooling_strategy == config.class_token_pooling == "first"
            and config.encoder_layer_id in (-1, layers)
            and self.mixer is None
            and not config.use_lstm
            and layers > 1  # what follows the first layer of some backbones looks at neighbours
        )

    def encode(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """What `score` needs of the encoder, [T, C] each; reads no field of labels or prompts."""
        if self.finishes_few_rows:
            x, attended = self.encoder.mix_last(batch, self.heads.segments)
            return x, attended
        states = self.encoder.states(batch, self.heads.segments)
        if self.mixer is not None:
            return tuple(state.clone() for state in states)
        wanted = self.config.encoder_layer_id % (self.config.encoder.num_hidden_layers + 1)
        return (next(islice(states, wanted, None)),)

    def score(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> Output:
        """Logits from what `encode` gave."""
        config, heads = self.config, self.heads
        pooled, pooled_labels = self._pool(encoded, batch)
        text_vectors, label_vectors = self._project_text(pooled), heads.label_projector(pooled_labels)
        if config.normalize_features:
            label_vectors = pooling.normalize(label_vectors)
        scale = heads.logit_scale if config.normalize_features else None
        output: Output = self.comparison(text_vectors, label_vectors, batch, scale)
        return output

    def forward(self, batch: PackedBatch) -> Output:
        return self.score(self.encode(batch), batch)

    def _pool(self, encoded: tuple[Tensor, ...], batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """What is projected: text rows [N, C] (or all, [T, C], for "pass") and label rows [L, C]."""
        config = self.config
        if self.finishes_few_rows:
            rows = self.encoder.finish_last(*(state.index_select(0, batch.first_rows) for state in encoded))
            return rows[: batch.capacity.prompts], rows[batch.capacity.prompts :]
        rows = encoded[0] if self.mixer is None else self.mixer(encoded, batch)
        pooled_labels = pooling.pool_labels(rows, batch, config, self.ops)
        if self.heads.lstm is not None:
            rows = self.heads.lstm(rows, pooling.text_spans(batch, config))
        return pooling.pool_text(rows, batch, config, self.ops), pooled_labels

    def empty_text_vector(self) -> Tensor:
        """The projection of a zero row, [1, C]."""
        return self._project_text(torch.zeros_like(self.heads.text_projector.linear_2.bias)[None])

    def _project_text(self, pooled: Tensor) -> Tensor:
        projected = self.heads.text_projector(pooled)
        return pooling.normalize(projected) if self.config.normalize_features else projected
