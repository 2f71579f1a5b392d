"""The reference's pooling classes, over padded rows: ours pool what is left without the padding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gliclass_fast.models.pooling import TEXT_POOLINGS
from gliclass_fast.ops import choose_ops

OPS = choose_ops("cpu", torch.float32)


class Pooling(nn.Module):
    name: str

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Maps x, [N, S, C], with a mask [N, S, 1] to [N, C]."""
        kept = torch.ones(x.shape[:2], dtype=torch.bool)
        if attention_mask is not None and self.name != "pass":
            kept = attention_mask[..., 0].bool()
        lengths = kept.sum(1, dtype=torch.int32)
        ends = lengths.cumsum(0, dtype=torch.int32)
        spans = torch.stack((ends - lengths, ends), dim=1)
        pooled = TEXT_POOLINGS[self.name](x[kept], spans, lengths, OPS)
        return pooled.view_as(x) if self.name == "pass" else pooled


CLASSES = {
    "FirstTokenPooling1D": "first",
    "GlobalAbsAvgPooling1D": "abs_avg",
    "GlobalAbsMaxPooling1D": "abs_max",
    "GlobalAvgPooling1D": "avg",
    "GlobalMaxPooling1D": "max",
    "GlobalRMSPooling1D": "rms",
    "GlobalSumPooling1D": "sum",
    "LastTokenPooling1D": "last",
    "PassPooling1D": "pass",
}
NAMES = {theirs: type(theirs, (Pooling,), {"name": ours}) for theirs, ours in CLASSES.items()}
