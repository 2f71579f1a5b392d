"""Llama (Touvron et al., arXiv:2302.13971) as an encoder: it is a decoder without its causal mask, as LLM2Vec
(BehnamGhader et al., arXiv:2404.05961) runs it.

It has pre-RMSNorm layers, RoPE, SwiGLU (Shazeer, arXiv:2002.05202) and, in most checkpoints, fewer heads of
keys and values than of queries (Ainslie et al., arXiv:2305.13245).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gliclass_fast.batch import PackedBatch
from gliclass_fast.checkpoint.weights import affine
from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models.backbone_config import BackboneConfig, common_fields
from gliclass_fast.models.binding import bound_feed_forward, bound_self_attention
from gliclass_fast.models.layers import Linear, NormLinear
from gliclass_fast.models.pre_norm import PreNormEncoder, PreNormLayer
from gliclass_fast.models.rotary import RotaryTable, theta_of
from gliclass_fast.ops import AdapterRows, BoundFeedForward, BoundSelfAttention, Ops, Positions

_LAYER = "layers.{i}"
WEIGHTS = {
    "word_embeddings.weight": ("embed_tokens.weight",),
    **affine(
        {
            "layers.{i}.qkv.norm": f"{_LAYER}.input_layernorm",
            "layers.{i}.qkv.linear": [f"{_LAYER}.self_attn.{part}_proj" for part in "qkv"],
            "layers.{i}.out": f"{_LAYER}.self_attn.o_proj",
            "layers.{i}.up.norm": f"{_LAYER}.post_attention_layernorm",
            "layers.{i}.up.linear": [f"{_LAYER}.mlp.{part}_proj" for part in ("gate", "up")],
            "layers.{i}.down": f"{_LAYER}.mlp.down_proj",
            "final_norm": "norm",
        }
    ),
}
UNUSED = ("rotary_emb.inv_freq", "layers.*.self_attn.rotary_emb.inv_freq")  # in early checkpoints
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # their frequencies do not change with the prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(BackboneConfig):
    positions_grow: ClassVar[bool] = True  # they are angles

    num_key_value_heads: int
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    frequencies: tuple[float, ...]  # RoPE's radians per position, [D / 2]
    rotary_scale: float  # a factor of cos and sin

    @property
    def overflows_float16(self) -> bool:
        return True  # this family is trained in bfloat16


def config_from(hf: Any) -> Config:
    fields = common_fields(hf, head_width="head_dim")
    frequencies, rotary_scale = rope(hf, fields["head_width"])
    return Config(
        **fields,
        num_key_value_heads=hf.num_key_value_heads,
        norm_eps=hf.rms_norm_eps,
        qkv_bias=getattr(hf, "attention_bias", False),
        out_bias=getattr(hf, "attention_bias", False),
        mlp_bias=getattr(hf, "mlp_bias", False),
        frequencies=frequencies,
        rotary_scale=rotary_scale,
        max_positions=hf.max_position_embeddings,
    )


def rope(hf: Any, head_width: int) -> tuple[tuple[float, ...], float]:
    """Returns the frequencies and the scale of a configuration's RoPE; raises UnsupportedConfigError."""
    parameters, option = hf.rope_parameters, "encoder_config.rope_parameters"
    kind = parameters.get("rope_type")
    if kind not in ROPE_TYPES:
        raise UnsupportedConfigError(
            f"{option}.rope_type={kind!r} is not supported; supported: {', '.join(ROPE_TYPES)}"
        )
    if kind == "default":
        exponents = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
        frequencies, scale = 1.0 / theta_of(parameters) ** exponents, 1.0
    else:
        frequencies, scale = ROPE_INIT_FUNCTIONS[kind](hf, torch.device("cpu"))
    if 2 * len(frequencies) != head_width:
        raise UnsupportedConfigError(
            f"{option} turns {2 * len(frequencies)} values of heads {head_width} wide; supported: all of them"
        )
    return tuple(frequencies.tolist()), float(scale)


def rotary_table(config: Config, like: Tensor) -> RotaryTable:
    """Returns the tables of a configuration's RoPE, on the device and in the dtype of `like`."""
    return RotaryTable(config.frequencies, like, config.rotary_scale)


class Layer(PreNormLayer):
    bound_attention: BoundSelfAttention | None = None  # `attention` in one call
    bound: BoundFeedForward | None = None  # `after_attention` in one call

    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        across = config.num_attention_heads * config.head_width
        of_keys = config.num_key_value_heads * config.head_width
        self.config, self.ops = config, ops
        self.qkv = NormLinear(width, across + 2 * of_keys, ops, eps, bias=config.qkv_bias, rms=True)
        self.qkv.linear.row_parts = (across, of_keys, of_keys)
        self.out = Linear(across, width, ops, config.out_bias)
        self.up = NormLinear(width, 2 * inner, ops, eps, bias=config.mlp_bias, rms=True)
        self.down = Linear(inner, width, ops, config.mlp_bias)

    def bind(self) -> None:
        self.bound = bound_feed_forward(self.out, self.up, self.down, self.config.activation, gated=True)
        width, heads = self.config.head_width, self.config.num_attention_heads
        self.bound_attention = bound_self_attention(
            self.qkv, heads, width, width**-0.5, self.config.num_key_value_heads
        )

    def attention(self, x: Tensor, batch: PackedBatch, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Runs the part that looks at other tokens, [T, C] -> [T, H * D]."""
        if self.bound_attention is not None and batch.adapter_rows is None:
            return self.bound_attention(x, batch.sequences, rotary)
        width, heads = self.config.head_width, self.config.num_attention_heads
        tokens, shared = x.shape[0], self.config.num_key_value_heads
        rows = self.qkv(x, rows=batch.adapter_rows).view(tokens, heads + 2 * shared, width)
        # attention takes as many heads of keys and values as of queries, so each query head gets a copy
        qkv = rows.new_empty(tokens, 3, heads, width)
        qkv[:, 0] = rows[:, :heads]
        qkv[:, 1:].view(tokens, 2, shared, -1, width)[:] = rows[:, heads:].view(tokens, 2, shared, 1, width)
        return self.ops.attention(qkv, batch.sequences, width**-0.5, Positions(rotary))

    def after_attention(self, x: Tensor, attended: Tensor, rows: AdapterRows | None) -> Tensor:
        if self.bound is not None:
            return self.bound(x, attended, rows, (self.out.lora, self.up.linear.lora, self.down.lora))[1]
        x = self.out.add(attended, x, rows)
        return self.down.add(self.up(x, self.config.activation, gated=True, rows=rows), x, rows)


class Encoder(PreNormEncoder):
    def __init__(self, config: Config, ops: Ops) -> None:
        super().__init__(config, ops)
        self.config = config
        self.layers = nn.ModuleList(Layer(config, ops) for _ in range(config.num_hidden_layers))

    def fold_weights(self) -> None:
        """Makes the rotary tables. No weight is folded."""
        self.rotary = rotary_table(self.config, self.word_embeddings.weight)

    def rotary_tables(self, batch: PackedBatch) -> list[tuple[Tensor, Tensor]]:
        return [self.rotary(batch.max_seqlen)] * len(self.layers)

    def attention(self, number: int, x: Tensor, batch: PackedBatch) -> Tensor:
        layer = self.layers[number]
        assert isinstance(layer, Layer)
        return layer.attention(x, batch, self.rotary(batch.max_seqlen))
