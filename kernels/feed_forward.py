"""What a layer does to every row alone, bound to its weights once and then done in one call.

With x [T, C], which goes into the layer, and `attended` [T, A], which comes out of its attention:

    first  = x + attended @ out.T + out_bias,        through a LayerNorm where `first_norm` is given
    inner  = activation(n @ up.T + up_bias), or gated,  n = first, or its norm as in `norm_linear` (linear.py)
    sum    = first + inner @ down.T + down_bias,     [T, C]
    last   = the norm of sum where `last_norm` is given, or else sum

`bind_feed_forward(layer)` returns a function of (x, attended, rows, stores) -> (sum, last). Nothing reads the
sum where both norms are given: both are `last` there. It returns None where the backend has no such call: the
layer then runs one operation after the other, with the same result. With few rows, much of the time would
pass between them.

rows, an `AdapterRows`, says which adapter every row has: its updates, which the `stores` of the maps out, up
and down hold (None for a map without any), are added to the maps as by `lora_add` (lora.py). Without adapters
both are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

BoundFeedForward = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FeedForward:
    """Holds the packed weights of three maps, and what comes before and after them."""

    out: Tensor
    up: Tensor
    down: Tensor
    out_bias: Tensor | None
    up_bias: Tensor | None
    down_bias: Tensor | None
    depth: int  # A, the width of what comes out of attention
    width: int  # C
    inner: int  # F, inputs of the map down
    activation: str
    gated: bool = False  # The map up has 2 * inner outputs.
    up_norm: str | None = None  # "layer" or "rms", whose weights are part of the map up
    up_norm_parameters: tuple[Tensor, Tensor | None] | None = None  # that norm's, for what adapters add
    first_norm: tuple[Tensor, Tensor | None] | None = None  # (weight, bias)
    last_norm: tuple[Tensor, Tensor | None] | None = None
    rms: bool = False  # The last norm is an RMSNorm.
    eps: float


def bind_feed_forward_reference(layer: FeedForward) -> BoundFeedForward | None:
    return None
