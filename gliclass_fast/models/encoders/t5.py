"""T5 (Raffel et al., arXiv:1910.10683), mT5 (Xue et al., arXiv:2010.11934) and umT5 (Chung et al.,
arXiv:2304.09151): they have pre-RMSNorm layers without biases, and unscaled scores with a learned bias per
distance and head.

All layers of T5 and mT5 use the first layer's biases; umT5 has some in every layer. This is the encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models.backbone_config import BackboneConfig, common_fields, refuse_causal
from gliclass_fast.models.binding import bound_feed_forward, bound_self_attention
from gliclass_fast.models.layers import Embedding, Linear, NormLinear
from gliclass_fast.models.pre_norm import PreNormEncoder, PreNormLayer
from gliclass_fast.ops import NO_POSITIONS, AdapterRows, BoundFeedForward, BoundSelfAttention, Ops, Positions


def stack_weights(stack: str, feed_forward: int) -> dict[str, tuple[str, ...]]:
    """Returns the WEIGHTS of the encoder or the decoder; feed_forward: the number of that part of a block."""
    attention, dense = f"{stack}.block.{{i}}.layer.0", f"{stack}.block.{{i}}.layer.{feed_forward}"
    inner = f"{dense}.DenseReluDense"
    return {
        "word_embeddings.weight": ("shared.weight",),
        "final_norm.weight": (f"{stack}.final_layer_norm.weight",),
        "layers.{i}.biases.weight": (f"{attention}.SelfAttention.relative_attention_bias.weight",),
        **affine(
            {
                "layers.{i}.qkv.norm": f"{attention}.layer_norm",
                "layers.{i}.qkv.linear": [f"{attention}.SelfAttention.{part}" for part in "qkv"],
                "layers.{i}.out": f"{attention}.SelfAttention.o",
                "layers.{i}.up.norm": f"{dense}.layer_norm",
                "layers.{i}.up.linear": f"{inner}.wi",
                "layers.{i}.gated_up.norm": f"{dense}.layer_norm",
                "layers.{i}.gated_up.linear": [f"{inner}.wi_0", f"{inner}.wi_1"],
                "layers.{i}.down": f"{inner}.wo",
            }
        ),
    }


WEIGHTS = stack_weights("encoder", feed_forward=1)
UNUSED = ("encoder.embed_tokens.weight",)  # where it differs from `shared`, `shared` counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BackboneConfig):
    gated: bool
    buckets: int
    max_distance: int
    biased_layers: int  # layers with biases, from the first one on; the others use the first's

    @property
    def overflows_float16(self) -> bool:
        return True  # this family is trained in bfloat16


def config_from(hf: Any, of_decoder: bool = False) -> Config:
    """Reads the encoder's configuration, or the decoder's, from that of both."""
    buckets, distance = hf.relative_attention_num_buckets, hf.relative_attention_max_distance
    single = buckets // (2 if of_decoder else 4)
    if not 1 <= single < distance:
        raise UnsupportedConfigError(
            f"encoder_config.relative_attention_num_buckets={buckets} gives {single} near distances a "
            f"bucket of their own, of those up to relative_attention_max_distance={distance}; supported: "
            "at least 1, and fewer than all"
        )
    refuse_causal(hf, "is_decoder", "is_causal")
    layers = "num_decoder_layers" if of_decoder else "num_layers"
    return Config(
        **common_fields(hf, "dense_act_fn", "d_ff", layers, head_width="d_kv"),
        gated=bool(hf.is_gated_act),
        norm_eps=hf.layer_norm_epsilon,
        buckets=buckets,
        max_distance=distance,
        biased_layers=getattr(hf, layers) if hf.model_type == "umt5" else 1,
        max_positions=None,
    )


def distance_buckets(config: Config, of_decoder: bool = False) -> Tensor:
    """Returns the row of the bias table for every distance i - j = -max_distance .. max_distance.

    Beyond, the ends repeat. Half the rows are for keys ahead of the query; all rows of a decoder are for keys
    before it, and those ahead count as its own place. In one direction, the first half of the rows is for
    single distances, and the rest is for ranges that grow logarithmically:
    m + ln(d / m) / ln(max_distance / m) * m, rounded down, in float32.
    """
    reach, rows = config.max_distance, config.buckets // (1 if of_decoder else 2)
    distance = torch.arange(-reach, reach + 1)
    away, single = distance.clamp(min=0) if of_decoder else distance.abs(), rows // 2
    growth = torch.log(away.float() / single) / math.log(reach / single) * (rows - single)
    far = (single + growth.clamp(min=0).long()).clamp(max=rows - 1)
    return torch.where(away < single, away, far) + (0 if of_decoder else (distance < 0) * rows)


class Layer(PreNormLayer):
    positions = NO_POSITIONS  # the biases by distance, once they are folded
    bound_attention: BoundSelfAttention | None = None  # `attention` in one call
    bound: BoundFeedForward | None = None  # `after_attention` in one call

    def __init__(self, config: Config, ops: Ops, number: int) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        across = config.num_attention_heads * config.head_width
        self.config, self.ops = config, ops
        biased = number < config.biased_layers
        self.biases = Embedding(config.buckets, config.num_attention_heads) if biased else None
        self.qkv = NormLinear(width, 3 * across, ops, eps, bias=False, rms=True)
        self.out = Linear(across, width, ops, bias=False)
        self.up = None if config.gated else NormLinear(width, inner, ops, eps, bias=False, rms=True)
        self.gated_up = NormLinear(width, 2 * inner, ops, eps, bias=False, rms=True) if config.gated else None
        self.down = Linear(inner, width, ops, bias=False)

    def bind(self) -> None:
        activation, gated = self.config.activation, self.gated_up is not None
        self.bound = bound_feed_forward(self.out, self._goes_up, self.down, activation, gated)
        heads, width = self.config.num_attention_heads, self.config.head_width
        self.bound_attention = bound_self_attention(
            self.qkv, heads, width, 1.0, distance_bias=self.positions.distance_bias
        )

    @property
    def _goes_up(self) -> NormLinear:
        up = self.gated_up or self.up
        assert up is not None
        return up

    def attention(self, x: Tensor, batch: PackedBatch) -> Tensor:
        """Runs the part that looks at other tokens, [T, C] -> [T, H * D]."""
        if self.bound_attention is not None and batch.adapter_rows is None:
            return self.bound_attention(x, batch.sequences)
        qkv = self.qkv(x, rows=batch.adapter_rows)
        qkv = qkv.view(x.shape[0], 3, self.config.num_attention_heads, -1)
        return self.ops.attention(qkv, batch.sequences, 1.0, self.positions)

    def after_attention(self, x: Tensor, attended: Tensor, rows: AdapterRows | None) -> Tensor:
        if self.bound is not None:
            stores = self.out.lora, self._goes_up.linear.lora, self.down.lora
            return self.bound(x, attended, rows, stores)[1]
        return self.feed_forward(self.out.add(attended, x, rows), rows)

    def feed_forward(self, x: Tensor, rows: AdapterRows | None) -> Tensor:
        """Runs the feed-forward half; it may overwrite x."""
        inner = self._goes_up(x, self.config.activation, gated=self.gated_up is not None, rows=rows)
        return self.down.add(inner, x, rows)


def fold_biases(layers: nn.ModuleList, buckets: Tensor, added: Tensor | float = 0.0) -> None:
    """Makes every layer's biases by distance, float32 [H, 2 * max_distance + 1].

    Layers without biases share those of the layer before them. added: what is added by distance.
    """
    positions = NO_POSITIONS
    for layer in layers:
        assert isinstance(layer, Layer)
        if layer.biases is not None:
            positions = Positions(distance_bias=layer.biases.weight.float()[buckets].T.contiguous() + added)
        layer.positions, layer.biases = positions, None


class Encoder(PreNormEncoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__(config, ops)
        self.config = config
        self.layers = nn.ModuleList(Layer(config, ops, number) for number in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Makes the bias of every distance, per layer."""
        fold_biases(self.layers, distance_buckets(self.config).to(self.word_embeddings.weight.device))

    def attention(self, number: int, x: Tensor, batch: PackedBatch) -> Tensor:
        layer = self.layers[number]
        assert isinstance(layer, Layer)
        return layer.attention(x, batch)
