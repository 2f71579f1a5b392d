"""DeBERTa v1 (He et al., arXiv:2006.03654): it has v2's layers, but with one position embedding per distance,
always with projections of their own, and with queries, keys and values packed head by head.

Only queries and values have a bias. Both position terms read row clamp(i - j + span, 0, 2 * span - 1) of the
position table, as v2's do without buckets: the reference gathers the position-to-content term by key and
negated distance, then transposes it. Where it cuts the table to the length of the sequence, it cuts off the
rows that no distance reaches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models.encoders import deberta_v2
from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Ops

_SELF = "encoder.layer.{i}.attention.self"
WEIGHTS = {
    **deberta_v2.WEIGHTS,
    "layers.{i}.qkv.weight": (f"{_SELF}.in_proj.weight",),
    "layers.{i}.query_value_bias": (f"{_SELF}.q_bias", f"{_SELF}.v_bias"),
    **affine(
        {
            "layers.{i}.pos_key": f"{_SELF}.pos_proj",
            "layers.{i}.pos_query": f"{_SELF}.pos_q_proj",
        }
    ),
}
UNUSED = deberta_v2.UNUSED


def config_from(hf: Any) -> deberta_v2.Config:
    if getattr(hf, "talking_head", False):
        raise UnsupportedConfigError("encoder_config.talking_head=true is not supported; supported: false")
    # v2's options, where a file has them, mean nothing to v1
    return replace(
        deberta_v2.config_from(hf),
        position_buckets=-1,
        norm_distances=False,
        share_att_key=False,
        conv_kernel_size=0,
    )


class Layer(deberta_v2.Layer):
    def __init__(self, config: deberta_v2.Config, ops: Ops) -> None:
        super().__init__(config, ops)
        width = config.hidden_size
        self.qkv = Linear(width, 3 * width, ops, bias=False)
        self.query_value_bias = nn.Parameter(torch.empty(2 * width), requires_grad=False)
        if self.pos_key is not None:
            self.pos_key = Linear(width, width, ops, bias=False)

    def unpack(self) -> None:
        """Takes v2's form: rows [H, 3, D] in the order [3, H, D], and zeros for the biases that v1 lacks."""
        width, heads = self.config.hidden_size, self.num_heads

        def unpacked(rows: Tensor) -> Tensor:
            return rows.view(heads, 3, width // heads, -1).transpose(0, 1).reshape(3 * width, -1)

        query, value = self.query_value_bias.chunk(2)
        none = torch.zeros_like(query)
        self.qkv = Linear.of(unpacked(self.qkv.weight), torch.cat((query, none, value)), self.ops)
        self.qkv.rearranged = unpacked
        if self.pos_key is not None:
            self.pos_key = Linear.of(self.pos_key.weight, none, self.ops)
        del self.query_value_bias


class Encoder(deberta_v2.Encoder):
    def __init__(self, config: deberta_v2.Config, ops: Ops) -> None:
        super().__init__(config, ops)
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Brings the layers to v2's form, then folds the weights as v2 does."""
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.unpack()
        super().fold_weights()
