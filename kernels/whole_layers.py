"""Whole layers, one behind the other, done in one call: with few rows, what passes between their halves would
take a large part of the time.

With x [T, C], which goes into the first layer, and `normed` [T, C], which its attention reads, every layer is

    attended  = what `bind_self_attention` made of it, of normed
    x, normed = what `bind_feed_forward` made of it, of x and attended

`bind_layers(halves)` takes both of every layer. It returns a function of (x, normed, sequences, rotaries) ->
(x, normed), where `rotaries` has the rotary tables of as many layers as are to run, each None for a layer
without. x and normed may be the same on the way in, and on the way out they are where nothing reads one of
them. It returns None where the backend has no such call, or layers are unlike each other: they then run one
half after the other, with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from gliclass_fast.kernels.feed_forward import BoundFeedForward
from gliclass_fast.kernels.self_attention import BoundSelfAttention

Halves = Sequence[tuple[BoundSelfAttention, BoundFeedForward]]
BoundLayers = Callable[..., tuple[Tensor, Tensor]]


def bind_layers_reference(halves: Halves) -> BoundLayers | None:
    return None
