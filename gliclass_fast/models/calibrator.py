"""The optional post-hoc calibrator: it gives logit' = beta * logit + bias for every (text, label) pair.

beta = beta_max * sigmoid(m_0) and bias = m_1 (0 without `calibrator_use_bias`), where m is a GELU network
over [t, l, t * l, |t - l|, s] with t and l the layer-normed vectors and s six statistics of the text's
logits: z, |z|, z - max z, z - mean z, the mean binary entropy, and the log of the number of labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import ModelConfig
from gliclass_fast.models.layers import Linear, Norm
from gliclass_fast.ops import Ops

NORM_EPS = 1e-5
STATISTICS = 6
WEIGHTS = affine(
    {name: name for name in ("text_norm", "label_norm")}
    | {"first": "mlp.0", "second": "mlp.3", "last": "mlp.6"}
)


class Calibrator(nn.Module):
    def __init__(self, config: ModelConfig, ops: Ops) -> None:
        super().__init__()
        width, hidden = config.backbone_config.hidden_size, config.calibrator_hidden_size
        self.ops, self.beta_max, self.use_bias = ops, config.calibrator_beta_max, config.calibrator_use_bias
        self.text_norm, self.label_norm = (Norm(width, ops, NORM_EPS) for _ in range(2))
        self.first = Linear(4 * width + STATISTICS, hidden, ops)
        self.second = Linear(hidden, hidden, ops)
        self.last = Linear(hidden, 2 if self.use_bias else 1, ops)

    def forward(self, text: Tensor, labels: Tensor, logits: Tensor, batch: PackedBatch) -> Tensor:
        """Returns the calibrated logits [L] of text [N, C], labels [L, C] and logits [L]."""
        text, labels = self.text_norm(text)[batch.label_text], self.label_norm(labels)
        statistics = self._statistics(logits.float(), batch).to(labels.dtype)
        features = torch.cat((text, labels, text * labels, (text - labels).abs(), statistics), dim=-1)
        output = self.last(self.second(self.first(features, "gelu"), "gelu")).float()
        calibrated = self.beta_max * output[:, 0].sigmoid() * logits.float()
        return (calibrated + output[:, 1] if self.use_bias else calibrated).to(logits.dtype)

    def _statistics(self, logits: Tensor, batch: PackedBatch) -> Tensor:
        owner = batch.label_text
        per_prompt = torch.stack((batch.cu_labels[:-1], batch.cu_labels[1:]), dim=1)
        counts = batch.cu_labels.diff()[:, None]
        chance = logits.sigmoid()
        entropy = -(chance * F.logsigmoid(logits) + (1 - chance) * F.logsigmoid(-logits))
        means = self.ops.segment_pool(torch.stack((logits, entropy), dim=1), per_prompt, "sum") / counts
        highest = self.ops.segment_pool(logits[:, None], per_prompt, "max")[:, 0]
        columns = (
            logits,
            logits.abs(),
            logits - highest[owner],
            logits - means[owner, 0],
            means[owner, 1],
            counts[owner, 0].float().log(),
        )
        return torch.stack(columns, dim=1)
