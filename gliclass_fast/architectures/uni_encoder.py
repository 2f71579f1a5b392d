"""`uni-encoder`: text and labels go through one encoder together, then a scorer compares them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gliclass_fast import calibrator, representations
from gliclass_fast.architectures import Output
from gliclass_fast.batch import PackedBatch
from gliclass_fast.config import ModelConfig, component
from gliclass_fast.ops import Ops
from gliclass_fast.weights import Checkpoint, Weights, affine

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


class Heads(nn.Module):
    """Everything between encoder and scorer that has weights."""

    def __init__(self, config: ModelConfig, ops: Ops, mixed_layers: int) -> None:
        super().__init__()
        self.text_projector = representations.Projector(config, ops)
        self.label_projector = representations.Projector(config, ops)
        self.logit_scale = nn.Parameter(torch.empty(()), requires_grad=False)
        self.segments = None
        if config.use_segment_embeddings:
            self.segments = nn.Parameter(torch.empty(3, config.encoder.hidden_size), requires_grad=False)
        self.mixer = representations.LayerMixer(config, ops, mixed_layers) if config.squeeze_layers else None
        self.lstm = representations.TextLstm(config) if config.use_lstm else None


class Architecture(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops, checkpoint: Checkpoint) -> None:
        """checkpoint: asked only for the number of layers the mixer was made for."""
        super().__init__()
        self.config, self.ops = config, ops
        gates = checkpoint.shape("model.layer_wise_attention.W2.weight")
        layers = config.encoder.num_hidden_layers
        self.encoder = component("encoders", config.model_type).Encoder(config.encoder, ops)
        self.heads = Heads(config, ops, gates[0] if gates else layers)
        self.scorer = component("scorers", config.scorer_type).Scorer(config, ops)
        self.calibrator = calibrator.Calibrator(config, ops) if config.use_calibrator else None

    def fill(self, checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> None:
        """Takes this architecture's tensors out of a checkpoint; raises CheckpointError unless all match."""
        encoder = component("encoders", self.config.model_type)
        scorer = component("scorers", self.config.scorer_type)
        checkpoint.fill(self.encoder, encoder.WEIGHTS, "model.encoder_model.", device, dtype)
        checkpoint.fill(self.heads, HEAD_WEIGHTS, "model.", device, dtype)
        checkpoint.fill(self.scorer, scorer.WEIGHTS, "model.scorer.", device, dtype)
        if self.calibrator is not None:
            checkpoint.fill(self.calibrator, calibrator.WEIGHTS, "calibrator.", device, dtype)
        checkpoint.close(ignored=[f"model.encoder_model.{name}" for name in encoder.UNUSED])

    def forward(self, batch: PackedBatch) -> Output:
        config, heads = self.config, self.heads
        rows = self._hidden(self.encoder.states(batch, heads.segments), batch)
        label_vectors = heads.label_projector(representations.pool_labels(rows, batch, config, self.ops))
        if heads.lstm is not None:
            rows = heads.lstm(rows, representations.text_spans(batch, config))
        text_vectors = self._project_text(representations.pool_text(rows, batch, config, self.ops))
        if config.normalize_features:
            label_vectors = representations.normalize(label_vectors)
        logits = self.scorer(text_vectors, label_vectors, batch)
        if config.normalize_features:
            logits = logits * heads.logit_scale
        if self.calibrator is None:
            return Output(logits, None, text_vectors, label_vectors)
        calibrated = self.calibrator(text_vectors, label_vectors, logits, batch)
        return Output(calibrated, logits, text_vectors, label_vectors)

    def empty_text_vector(self) -> Tensor:
        """The projection of a zero row, [1, C]."""
        return self._project_text(torch.zeros_like(self.heads.text_projector.linear_2.bias)[None])

    def _project_text(self, pooled: Tensor) -> Tensor:
        projected = self.heads.text_projector(pooled)
        return representations.normalize(projected) if self.config.normalize_features else projected

    def _hidden(self, states: Iterator[Tensor], batch: PackedBatch) -> Tensor:
        """The hidden states the heads read, [T, C]: one given layer's, a mixture of all, or the last's."""
        if self.config.encoder_layer_id != -1:
            wanted = self.config.encoder_layer_id % (self.config.encoder.num_hidden_layers + 1)
            return next(state for number, state in enumerate(states) if number == wanted)
        if self.heads.mixer is not None:
            mixed: Tensor = self.heads.mixer(list(states), batch)
            return mixed
        return deque(states, maxlen=1).pop()
