"""The attention half of csrc/cpu/self_attention.cpp in PyTorch: its contract stands in self_attention.py."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._bound import Bound, packed_map
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._rounded import Rounding
from gliclass_fast.kernels._sequences import Sequences
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_attention import check_rotary, check_tiles, constant_fields
from gliclass_fast.kernels.compiled_bfloat16 import BFLOAT16
from gliclass_fast.kernels.compiled_distances import PackedTables
from gliclass_fast.kernels.compiled_int8 import INT8
from gliclass_fast.kernels.self_attention import SelfAttention


class BoundHalf(Bound[SelfAttention]):
    def __init__(
        self, layer: SelfAttention, rounding: Rounding | None = None, bfloat16: bool = False
    ) -> None:
        """Takes how the linear map rounds, and whether the products of attention are in bfloat16."""
        self.bfloat16 = bfloat16
        super().__init__(layer, rounding)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.layer, self.rounding, self.bfloat16)

    def weights(self) -> Iterable[Tensor | None]:
        layer = self.layer
        yield from (layer.qkv, layer.qkv_bias, layer.distance_bias)
        if isinstance(tables := layer.tables, PackedTables):
            yield from (tables.key_table, tables.query_table, tables.key_columns, tables.query_columns)

    def description(self) -> Any:
        layer = self.layer
        outputs = (layer.heads + 2 * layer.key_heads) * layer.width
        weights = layer.qkv, layer.qkv_bias, layer.depth, outputs
        qkv = packed_map(*weights, self.rounding, layer.norm, layer.eps)
        fields = constant_fields(
            layer.heads, layer.key_heads, layer.width, layer.scale, layer.window, layer.distance_bias,
            layer.tables, self.bfloat16,
        )  # fmt: skip
        return qkv, extension().Attention(**fields)

    def __call__(
        self, x: Tensor, sequences: Sequences, rotary: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        layer, rows, tiles = self.layer, x.shape[0], sequences.tiles
        x = x.contiguous()
        check_tensor(x, torch.float32, (rows, layer.depth))
        check_tiles(tiles)
        if rotary is not None:
            check_rotary(rotary, layer.width)
        cosines, sines = rotary or (None, None)
        qkv, attention = self.current()
        memory = _buffers.empty(extension().self_attention_scratch(qkv, rows))
        out = _buffers.empty(rows, layer.heads * layer.width)
        extension().self_attention_cpu(
            _extension.instruction_set()[0], qkv, attention, address(x), rows, address(tiles),
            address(cosines), address(sines), address(out), address(memory), thread_count(),
        )  # fmt: skip
        return out


bind_self_attention_cpp = BoundHalf
bind_self_attention_int8 = partial(BoundHalf, rounding=INT8)
bind_self_attention_bfloat16 = partial(BoundHalf, rounding=BFLOAT16)
