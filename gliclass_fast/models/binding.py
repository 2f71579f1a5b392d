"""The halves of a layer, as one call each where a backend has it, and whole layers, as one call together."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import Tensor

from gliclass_fast.models.layers import Linear, Norm, NormLinear
from gliclass_fast.ops import (
    BoundFeedForward,
    BoundLayers,
    BoundSelfAttention,
    DistanceTables,
    FeedForward,
    Ops,
    SelfAttention,
)


def bound_self_attention(
    qkv: Linear | NormLinear,
    heads: int,
    width: int,
    scale: float,
    key_heads: int | None = None,
    window: int | None = None,
    distance_bias: Tensor | None = None,
    tables: DistanceTables | None = None,
) -> BoundSelfAttention | None:
    """Returns what `bind_self_attention` in kernels/self_attention.py makes of a packed map.

    width: that of a head. key_heads: heads of keys and of values, where they are fewer than `heads`.
    """
    linear, norm = _behind_norm(qkv)
    return linear.ops.bind_self_attention(
        SelfAttention(
            qkv=linear.weight,
            qkv_bias=linear.bias,
            depth=linear.in_features,
            heads=heads,
            key_heads=key_heads or heads,
            width=width,
            scale=scale,
            window=window,
            distance_bias=distance_bias,
            tables=tables,
            norm=norm,
            eps=qkv.eps if isinstance(qkv, NormLinear) else 0.0,
        )
    )


def bound_feed_forward(
    out: Linear,
    up: Linear | NormLinear,
    down: Linear,
    activation: str,
    gated: bool = False,
    first_norm: Norm | None = None,
    last_norm: Norm | None = None,
) -> BoundFeedForward | None:
    """Returns what `bind_feed_forward` in kernels/feed_forward.py makes of packed maps."""
    linear, up_norm = _behind_norm(up)
    before_up = up.norm if isinstance(up, NormLinear) else None
    assert first_norm is None or not first_norm.rms
    eps, *others = {part.eps for part in (up, first_norm, last_norm) if isinstance(part, Norm | NormLinear)}
    if others:
        return None
    return out.ops.bind_feed_forward(
        FeedForward(
            out=out.weight,
            up=linear.weight,
            down=down.weight,
            out_bias=out.bias,
            up_bias=linear.bias,
            down_bias=down.bias,
            depth=out.in_features,
            width=out.out_features,
            inner=down.in_features,
            activation=activation,
            gated=gated,
            up_norm=up_norm,
            up_norm_parameters=_parameters(before_up),
            first_norm=_parameters(first_norm),
            last_norm=_parameters(last_norm),
            rms=last_norm is not None and last_norm.rms,
            eps=eps,
        )
    )


def bound_layers(layers: Iterable[Any], ops: Ops) -> BoundLayers | None:
    """Returns what `bind_layers` in kernels/whole_layers.py makes of layers; None if a half is not bound."""
    halves = [(layer.bound_attention, layer.bound) for layer in layers]
    return None if None in {*chain(*halves)} else ops.bind_layers(halves)


def _parameters(norm: Norm | None) -> tuple[Tensor, Tensor | None] | None:
    return None if norm is None else (norm.weight, norm.bias)


def _behind_norm(linear: Linear | NormLinear) -> tuple[Linear, str | None]:
    """Returns the map itself and the kind of norm that is part of it."""
    if isinstance(linear, NormLinear):
        return linear.linear, "rms" if linear.sums is None else "layer"
    return linear, None
