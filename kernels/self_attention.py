"""What a layer does to have every row see its sequence, bound to its weights once and then done in one call.

With x [T, C], which goes into the layer:

    q, k, v  = n @ qkv.T + qkv_bias, one after the other, n = x, or its norm as in `norm_linear` (linear.py)
    attended = attention(q, k, v), [T, H * D]

The attention is that of `attention` (attention.py), or with `tables` that of `disentangled_attention`. Where
there are fewer heads of keys and values, G, than of queries, H / G neighbours of the latter share one.

`bind_self_attention(layer)` returns a function of (x, sequences, rotary) -> attended; rotary is that of
`Positions`, None for a layer without. It returns None where the backend has no such call: the layer then runs
one operation after the other, with the same result. With few rows, much of the time would pass between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gliclass_fast.kernels._sequences import DistanceTables

BoundSelfAttention = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SelfAttention:
    """Holds the packed weights of the map, and what does not change of the attention."""

    qkv: Tensor
    qkv_bias: Tensor | None
    depth: int  # C
    heads: int  # H
    key_heads: int  # G
    width: int  # D
    scale: float
    window: int | None = None  # as in `Positions`
    distance_bias: Tensor | None = None  # as in `Positions`
    tables: DistanceTables | None = None  # as `pack_distances` returned them, without a window and a bias
    norm: str | None = None  # "layer" or "rms", whose weights are part of the map
    eps: float = 0.0


def bind_self_attention_reference(layer: SelfAttention) -> BoundSelfAttention | None:
    return None
