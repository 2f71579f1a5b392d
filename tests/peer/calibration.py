"""The reference's calibrator, over padded rows: ours calibrates a packed batch without the padding.

Ours gives the calibrated logits alone. Its last layer's output says which scale and shift made them, and
the end of its first layer's input holds the statistics of the logits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.models.calibrator import STATISTICS, Calibrator
from gliclass_fast.ops import choose_ops
from tests.peer.scorers import batch_of, config_of, initialized


class GLiClassCalibrator(nn.Module):
    def __init__(
        self,
        representation_size: int,
        hidden_size: int = 256,
        beta_max: float = 3.0,
        dropout: float = 0.1,
        use_bias: bool = False,
    ) -> None:
        super().__init__()
        config = config_of(
            representation_size,
            calibrator_hidden_size=hidden_size,
            calibrator_beta_max=beta_max,
            calibrator_use_bias=use_bias,
        )
        self.ours = initialized(Calibrator(config, choose_ops("cpu", torch.float32, "reference")))
        self.beta_max, self.use_bias = beta_max, use_bias
        self.mlp = [self.ours.first, self.ours.second, self.ours.last]
        self.reset_to_global_scaling(1.0)

    def reset_to_global_scaling(self, base_beta: float, base_bias: float = 0.0) -> None:
        reset(self.ours, base_beta, base_bias)

    def forward(
        self, text_repr: Tensor, label_repr: Tensor, logits: Tensor, label_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the scales and shifts, [N, L]: 1 and 0 where `label_mask` has no label."""
        kept = label_mask.bool()
        batch = batch_of([1] * len(kept), kept.sum(1).tolist())
        with Seen(self.ours) as seen:
            calibrated = self.ours(text_repr, label_repr[kept], logits[kept], batch)
        torch.testing.assert_close(calibrated, seen.beta * logits[kept] + seen.bias)
        beta, bias = torch.ones_like(logits), torch.zeros_like(logits)
        beta[kept], bias[kept] = seen.beta, seen.bias
        return beta, bias


class Seen:
    """Keeps what the layers of a calibrator of ours read and give inside of a `with`.

    There is nothing to keep of None, a model without one.
    """

    beta: Tensor | None = None  # [L]
    bias: Tensor | None = None  # [L]
    statistics: Tensor | None = None  # [L, STATISTICS]

    def __init__(self, ours: Calibrator | None) -> None:
        self.ours = ours

    def __enter__(self) -> Seen:
        self.hooks = []
        if self.ours is not None:
            self.hooks.append(self.ours.first.register_forward_pre_hook(self._read))
            self.hooks.append(self.ours.last.register_forward_hook(self._gave))
        return self

    def __exit__(self, *error: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def _read(self, layer: Any, inputs: tuple[Any, ...]) -> None:
        self.statistics = inputs[0][:, -STATISTICS:]

    def _gave(self, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.beta = self.ours.beta_max * output[:, 0].sigmoid()
        self.bias = output[:, 1] if self.ours.use_bias else torch.zeros_like(self.beta)


def reset(ours: Calibrator, base_beta: float, base_bias: float) -> None:
    """Makes a calibrator give the same scale and shift for every pair."""
    with torch.no_grad():
        ours.last.weight.zero_()
        ours.last.bias[0] = output_of(base_beta, ours.beta_max)
        if ours.use_bias:
            ours.last.bias[1] = base_bias


def output_of(beta: float, beta_max: float) -> float:
    """Returns what the last layer has to give for a scale, which is strictly between 0 and beta_max."""
    share = min(max(beta / beta_max, 1e-4), 1 - 1e-4)
    return math.log(share / (1 - share))


def logit_features(logits: Tensor, label_mask: Tensor) -> Tensor:
    """Returns the statistics of logits [N, L] per label, [N, L, 6]: 0 where `label_mask` has no label."""
    kept = label_mask.bool()
    batch = batch_of([1] * len(kept), kept.sum(1).tolist())
    ours = GLiClassCalibrator(1).ours
    with Seen(ours) as seen:
        ours(torch.zeros(len(kept), 1), torch.zeros(int(kept.sum()), 1), logits[kept], batch)
    features = torch.zeros(*logits.shape, STATISTICS)
    features[kept] = seen.statistics
    return features


NAMES = {"GLiClassCalibrator": GLiClassCalibrator, "logit_features": logit_features}
