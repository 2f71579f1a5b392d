"""The layers of csrc/cpu/layers.cpp in PyTorch: their contract stands in whole_layers.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._bound import Bound
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._sequences import Sequences
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_attention import check_rotary, check_tiles
from gliclass_fast.kernels.compiled_feed_forward import BoundHalf as FeedForwardHalf
from gliclass_fast.kernels.compiled_self_attention import BoundHalf as AttentionHalf
from gliclass_fast.kernels.whole_layers import BoundLayers, Halves


class _Bound(Bound[list[tuple[AttentionHalf, FeedForwardHalf]]]):
    def weights(self) -> Iterable[Tensor | None]:
        for halves in self.layer:
            for half in halves:
                yield from half.tensors

    def description(self) -> Any:
        parts = [(*attention.current(), feed_forward.current()) for attention, feed_forward in self.layer]
        return parts, extension().Layers(parts)

    def __call__(
        self,
        x: Tensor,
        normed: Tensor,
        sequences: Sequences,
        rotaries: Sequence[tuple[Tensor, Tensor] | None],
    ) -> tuple[Tensor, Tensor]:
        rows, (attention, feed_forward), tiles = x.shape[0], self.layer[0], sequences.tiles
        if not rotaries:
            return x, normed
        if len(rotaries) > len(self.layer):
            raise ValueError(f"there are {len(self.layer)} layers, and {len(rotaries)} are to run")
        x, normed = x.contiguous(), normed.contiguous()
        for each in (x, normed):
            check_tensor(each, torch.float32, (rows, attention.layer.depth))
        check_tiles(tiles)
        addresses = {id(None): (0, 0)}
        for rotary in {id(each): each for each in rotaries if each is not None}.values():
            check_rotary(rotary, attention.layer.width)
            addresses[id(rotary)] = address(rotary[0]), address(rotary[1])
        told = [addresses[id(each)] for each in rotaries]
        _parts, layers = self.current()  # What the layers are made of stays while they run.
        memory = _buffers.empty(extension().layers_scratch(layers, rows))
        total = _buffers.empty(*x.shape)
        last = _buffers.empty(*x.shape) if feed_forward.apart else total
        extension().layers_cpu(
            _extension.instruction_set()[0], layers, told, address(x), address(normed), rows, address(tiles),
            address(total), address(last), address(memory), thread_count(),
        )  # fmt: skip
        return total, last


def bind_layers_cpp(halves: Halves) -> BoundLayers | None:
    found = [
        (attention, feed_forward)
        for attention, feed_forward in halves
        if isinstance(attention, AttentionHalf) and isinstance(feed_forward, FeedForwardHalf)
    ]
    kinds = {(each.layer.depth, each.layer.width, half.apart) for each, half in found}
    fit = all(
        each.layer.depth == half.layer.width and each.layer.heads * each.layer.width == half.layer.depth
        for each, half in found
    )
    return _Bound(found) if fit and len(found) == len(halves) and len(kinds) == 1 else None
