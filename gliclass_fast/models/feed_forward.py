"""The part of a layer that treats every row alone, as one call where a backend has it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from gliclass_fast.models.layers import Linear, Norm, NormLinear
from gliclass_fast.ops import BoundFeedForward, FeedForward


@runtime_checkable
class Bindable(Protocol):
    """Describes a module that binds what it can to its weights, once they are packed and where they stay."""

    def bind(self) -> None:
        """Binds it."""
        ...


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
    to, up_norm, before_up = up, None, None
    if isinstance(up, NormLinear):
        to, up_norm, before_up = up.linear, "rms" if up.sums is None else "layer", up.norm
    assert isinstance(to, Linear)
    assert first_norm is None or not first_norm.rms
    eps, *others = {part.eps for part in (up, first_norm, last_norm) if isinstance(part, Norm | NormLinear)}
    if others:
        return None
    return out.ops.bind_feed_forward(
        FeedForward(
            out=out.weight,
            up=to.weight,
            down=down.weight,
            out_bias=out.bias,
            up_bias=to.bias,
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


def _parameters(norm: Norm | None) -> tuple[Tensor, Tensor | None] | None:
    return None if norm is None else (norm.weight, norm.bias)
