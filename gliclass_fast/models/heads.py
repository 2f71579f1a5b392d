"""The heads of uni-encoders and encoder-decoders: what has weights between a backbone and a scorer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.checkpoint.weights import Weights, affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.layers import both
from gliclass_fast.models.pooling import LayerMixer, Projector, TextLstm
from gliclass_fast.ops import Ops

HEAD_WEIGHTS: Weights = {
    "logit_scale": ("logit_scale",),
    "segment_embeddings": ("segment_embeddings.weight",),
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
    """Holds everything between backbone and scorer that has weights."""

    def __init__(self, config: ModelConfig, ops: Ops, mixed_layers: int) -> None:
        super().__init__()
        self.text_projector = Projector(config, ops)
        self.label_projector = Projector(config, ops)
        self.logit_scale = nn.Parameter(torch.empty(()), requires_grad=False)
        self.normalizes = config.normalize_features
        self.segment_embeddings = None
        if config.use_segment_embeddings:
            self.segment_embeddings = nn.Parameter(
                torch.empty(3, config.backbone_config.hidden_size), requires_grad=False
            )
        self.mixer = LayerMixer(config, ops, mixed_layers) if config.squeeze_layers else None
        self.lstm = TextLstm(config) if config.use_lstm else None

    def project(self, texts: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Projects text rows [N, C], or [T, C], and label rows [L, C]; their shapes stay."""
        of_text, of_label = self.text_projector, self.label_projector
        hidden = both((of_text.linear_1, of_label.linear_1), (texts, labels), of_text.activation)
        return both((of_text.linear_2, of_label.linear_2), hidden)

    @property
    def scale(self) -> Tensor | None:
        """Returns the factor of the logits, which have one only where vectors are normalised."""
        return self.logit_scale if self.normalizes else None
