"""The layers of BERT and of the backbones made like it: attention and the feed-forward network each have a
LayerNorm behind their residual sum.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from gliclass_fast.batch import PackedBatch
from gliclass_fast.models.backbone_config import BackboneConfig
from gliclass_fast.models.binding import bound_feed_forward, bound_layers, bound_self_attention
from gliclass_fast.models.encoders import Encoder
from gliclass_fast.models.layers import Linear, Norm
from gliclass_fast.ops import (
    NO_POSITIONS,
    AdapterRows,
    BoundFeedForward,
    BoundSelfAttention,
    Ops,
)


class PostNormLayer(nn.Module):
    """Runs plain attention; a subclass with another one has both `attend` and `bind_attention`."""

    positions = NO_POSITIONS
    bound_attention: BoundSelfAttention | None = None  # `attention` in one call
    bound: BoundFeedForward | None = None  # `after_attention` in one call

    def __init__(self, config: BackboneConfig, ops: Ops) -> None:
        super().__init__()
        width, inner, eps = config.hidden_size, config.intermediate_size, config.norm_eps
        self.ops, self.num_heads, self.activation = ops, config.num_attention_heads, config.activation
        self.head_width, self.scale = config.head_width, config.head_width**-0.5
        self.qkv = Linear(width, 3 * width, ops)
        self.out = Linear(width, width, ops)
        self.attention_norm = Norm(width, ops, eps)
        self.up, self.down = Linear(width, inner, ops), Linear(inner, width, ops)
        self.output_norm = Norm(width, ops, eps)

    def bind(self) -> None:
        self.bound = bound_feed_forward(
            self.out, self.up, self.down, self.activation, False, self.attention_norm, self.output_norm
        )
        self.bound_attention = self.bind_attention()

    def attend(self, qkv: Tensor, batch: PackedBatch) -> Tensor:
        """Runs attention, [T, 3, H, D] -> [T, C]."""
        return self.ops.attention(qkv, batch.sequences, self.scale, self.positions)

    def bind_attention(self) -> BoundSelfAttention | None:
        """Returns `attention` in one call, for rows without adapters."""
        bias = self.positions.distance_bias
        return bound_self_attention(self.qkv, self.num_heads, self.head_width, self.scale, distance_bias=bias)

    def attention(self, x: Tensor, batch: PackedBatch) -> Tensor:
        """Runs the part that looks at other tokens, [T, C] -> [T, C]."""
        if self.bound_attention is not None and batch.adapter_rows is None:
            return self.bound_attention(x, batch.sequences)
        qkv = self.qkv(x, rows=batch.adapter_rows)
        return self.attend(qkv.view(x.shape[0], 3, self.num_heads, -1), batch)

    def after_attention(self, x: Tensor, attended: Tensor, rows: AdapterRows | None) -> Tensor:
        """Runs the part that treats every row alone, from the layer's input and `attention` of it."""
        if self.bound is not None:
            return self.bound(x, attended, rows, (self.out.lora, self.up.lora, self.down.lora))[1]
        return self.feed_forward(self.add_attention(x, attended, rows), rows)

    def add_attention(self, x: Tensor, attended: Tensor, rows: AdapterRows | None) -> Tensor:
        """Ends the attention half: returns the norm of its sum with x, [T, C] -> [T, C]."""
        return self.attention_norm.add(self.out(attended, rows=rows), x)

    def feed_forward(self, x: Tensor, rows: AdapterRows | None) -> Tensor:
        """Runs the feed-forward half, [T, C] -> [T, C]."""
        return self.output_norm.add(self.down(self.up(x, self.activation, rows), rows=rows), x)

    def forward(self, x: Tensor, batch: PackedBatch) -> Tensor:
        return self.after_attention(x, self.attention(x, batch), batch.adapter_rows)


class PostNormEncoder(Encoder):
    """Runs the layers, and the last one in two steps; subclasses supply `layers` and `embed`.

    Who does more between the layers, in `hidden_states`, leaves them unbound: `bind` has them run at once.
    """

    def bind(self) -> None:
        self.bound_layers = bound_layers(self.layers, self._last_layer.ops)

    def hidden_states(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Iterator[Tensor]:
        x = self.embed(batch, segment_table, inputs_embeds)
        yield x
        for layer in self.layers:
            x = layer(x, batch)
            yield x

    def last_attention(
        self, batch: PackedBatch, segment_table: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x = self.state(len(self.layers) - 1, batch, segment_table, inputs_embeds)
        return x, self._last_layer.attention(x, batch)

    def last_feed_forward(self, x: Tensor, attended: Tensor, rows: AdapterRows | None = None) -> Tensor:
        return self._last_layer.after_attention(x, attended, rows)

    @property
    def _last_layer(self) -> PostNormLayer:
        layer = self.layers[-1]
        assert isinstance(layer, PostNormLayer)
        return layer
