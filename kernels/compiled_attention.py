"""The attention kernel of csrc/cpu as PyTorch operations: their contracts stand in attention.py,
causal_attention.py and disentangled_attention.py.

The kernel computes in float32, on as many threads as PyTorch uses, in the widest vectors the processor has.

The operations of `cpp_bfloat16` round the factors of every product to bfloat16: queries, keys, distance
tables, weights and values. Sums, softmax and results are float32. They are for processors that multiply
bfloat16.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._sequences import (
    NO_POSITIONS,
    PAGE_ROWS,
    DistanceTables,
    Positions,
    Sequences,
)
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_distances import PackedTables, table_fields


def constant_fields(
    heads: int,
    key_heads: int,
    width: int,
    scale: float,
    window: int | None,
    bias: Tensor | None,
    tables: DistanceTables | None,
    bfloat16: bool,
) -> dict[str, Any]:
    """Returns the fields of csrc/cpu/attention.h that a layer has in every call.

    Raises ValueError for heads that cannot share keys, and for a bias or tables that the kernel cannot read.
    """
    if heads % key_heads:
        raise ValueError(f"{key_heads} heads of keys cannot serve {heads} heads of queries")
    fields: dict[str, Any] = {
        "heads": heads, "width": width, "group": heads // key_heads, "scale": scale, "bfloat16": bfloat16,
    }  # fmt: skip
    if window is not None:
        fields["window"] = min(window, 1 << 30)  # sums of it and places fit into 32 bits
    if bias is not None:
        check_tensor(bias, torch.float32, (heads, bias.shape[1]))
        fields |= {"bias": address(bias), "reach": bias.shape[1] // 2}
    if tables is not None:
        if not isinstance(tables, PackedTables):
            raise ValueError("distance tables must be as `pack_distances_cpp` returned them")
        fields["key_table"] = table_fields(heads, width, tables.key_table, tables.key_columns, bfloat16)
        fields["query_table"] = table_fields(heads, width, tables.query_table, tables.query_columns, bfloat16)
    return fields


def check_tiles(tiles: Tensor) -> None:
    """Raises ValueError for what is no work list."""
    if tiles.dtype is not torch.int32 or tiles.shape[1:] != (4,) or not tiles.shape[0]:
        raise ValueError(f"tiles must be an int32 work list, got {tiles.dtype} {list(tiles.shape)}")


def check_rotary(rotary: tuple[Tensor, Tensor], width: int) -> None:
    """Raises ValueError for tables of other rows than those of heads so wide."""
    for each in rotary:
        if each.dtype is not torch.float32 or each.shape != (rotary[0].shape[0], width // 2):
            raise ValueError(
                f"rotary tables must be in float32 and {width // 2} wide, got {list(each.shape)}"
            )


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tensor,
    scale: float,
    positions: Positions = NO_POSITIONS,
    tables: PackedTables | None = None,
    causal: bool = False,
    pages: Tensor | None = None,
    bfloat16: bool = False,
) -> Tensor:
    """Takes q [R, H, D], k and v [T, G, D], where only the first dimension may be strided -> [R, H * D]."""
    count, heads, width = q.shape
    _check_rows(q, k, v)
    check_tiles(tiles)
    if pages is not None and pages.dtype is not torch.int32:
        raise ValueError(f"pages must be int32, got {pages.dtype}")
    window, bias = positions.window, positions.distance_bias
    fields = constant_fields(heads, k.shape[1], width, scale, window, bias, tables, bfloat16)
    if positions.rotary is not None:
        check_rotary(positions.rotary, width)
        fields["cosines"], fields["sines"] = map(address, positions.rotary)
    out = _buffers.empty(count, heads * width)
    arguments = extension().Attention(
        q=address(q, strided_rows=True),
        k=address(k, strided_rows=True),
        v=address(v, strided_rows=True),
        q_stride=q.stride(0),
        kv_stride=k.stride(0),
        out=address(out),
        tiles=address(tiles),
        causal=causal,
        pages=address(pages),
        page_rows=PAGE_ROWS,
        threads=thread_count(),
        **fields,
    )
    extension().attention_cpu(_extension.instruction_set()[0], arguments)
    return out


def _check_rows(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raises ValueError where the kernel would read something other than what it is given."""
    for each in (q, k, v):
        if each.dtype is not torch.float32:
            raise ValueError(f"needs float32, got {each.dtype}")
    of_q, of_k = q.stride(), k.stride()
    if of_q[1:] != (q.shape[2], 1) or of_k[1:] != of_q[1:] or v.stride() != of_k:
        raise ValueError("rows of q, k and v must be contiguous, k and v strided alike")


def attention_cpp(
    qkv: Tensor,
    sequences: Sequences,
    scale: float,
    positions: Positions = NO_POSITIONS,
    bfloat16: bool = False,
) -> Tensor:
    q, k, v = qkv.unbind(1)
    return _attend(q, k, v, sequences.tiles, scale, positions, bfloat16=bfloat16)


def cross_attention_cpp(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    return _attend(q, k, v, sequences.tiles, q.shape[-1] ** -0.5)


def causal_attention_cpp(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, pages: Tensor | None = None
) -> Tensor:
    return _attend(q, k, v, sequences.tiles, q.shape[-1] ** -0.5, causal=True, pages=pages)


def disentangled_attention_cpp(
    qkv: Tensor, sequences: Sequences, scale: float, tables: PackedTables, bfloat16: bool = False
) -> Tensor:
    q, k, v = qkv.unbind(1)
    return _attend(q, k, v, sequences.tiles, scale, tables=tables, bfloat16=bfloat16)


attention_cpp_bfloat16 = partial(attention_cpp, bfloat16=True)
disentangled_attention_cpp_bfloat16 = partial(disentangled_attention_cpp, bfloat16=True)
