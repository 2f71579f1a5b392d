"""The attention kernel of csrc/cpu as PyTorch operations: their contracts stand in attention.py,
causal_attention.py and disentangled_attention.py.

The kernel computes in float32, on as many threads as PyTorch uses, in the widest vectors the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._sequences import (
    NO_POSITIONS,
    PAGE_ROWS,
    DistanceTables,
    Positions,
    Sequences,
)
from gliclass_fast.kernels._threads import thread_count


def pack_distances_cpp(tables: DistanceTables, empty: Callable[..., Tensor] = torch.empty) -> DistanceTables:
    """Packs [H, D, buckets] into [H, P, D, lanes]: P panels hold `lanes` columns each, one per distance.

    The first half of the panels is for negative distances; the first and the last hold one column over and
    over. Lanes are keys in the key table, by distance j - i, and queries in the query table, by i - j.
    """
    bucket_of = tables.bucket_of
    return replace(
        tables,
        key_table=_panels(tables.key_table, bucket_of.flip(0), empty),
        query_table=_panels(tables.query_table, bucket_of, empty),
    )


def _panels(table: Tensor | None, bucket_of: Tensor, empty: Callable[..., Tensor]) -> Tensor | None:
    if table is None:
        return None
    heads, width, _ = table.shape
    _, lanes = _extension.instruction_set()
    columns = table.index_select(2, _buckets(bucket_of, _half(bucket_of.numel() // 2)))
    panels = columns.view(heads, width, -1, lanes).transpose(1, 2)
    return empty(*panels.shape, dtype=table.dtype, device=table.device).copy_(panels)


def _half(reach: int) -> int:
    """Returns the number of panels for distances to one side, of which the last is for those beyond reach."""
    return ceil_div(reach, _extension.instruction_set()[1]) + 1


def _buckets(bucket_of: Tensor, half: int) -> Tensor:
    """Returns the column of a table for every lane of 2 * half panels."""
    reach, side = bucket_of.numel() // 2, half * _extension.instruction_set()[1]
    return bucket_of[torch.arange(-side, side, device=bucket_of.device).clamp_(-reach, reach) + reach]


def near_panels(panels: Tensor, longest: int) -> Tensor:
    """Returns the panels [H, P', D, lanes] that texts of at most so many tokens read, a view."""
    count = panels.shape[1]
    half = min(_half(longest), count // 2)
    return panels[:, count // 2 - half : count // 2 + half]


def changed_panels(near: Tensor, inner: Tensor, b: Tensor, bucket_of: Tensor) -> Tensor:
    """Returns what `near_panels` did with b @ inner added, [H * D, r] x [r, buckets]; contiguous."""
    heads, count, width, _ = near.shape
    number, lanes = _extension.instruction_set()
    columns = inner.index_select(1, _buckets(bucket_of, count // 2))
    if b.shape != (heads * width, len(inner)) or near.stride()[1:] != (width * lanes, lanes, 1):
        raise ValueError(f"a change of shape {list(b.shape)} does not fit a table of {list(near.shape)}")
    for each in (near, columns, b):
        if each.dtype is not torch.float32:
            raise ValueError(f"needs float32, got {each.dtype}")
    out = torch.empty(near.shape, dtype=torch.float32, device=near.device)
    arguments = extension().TableChange(
        table=address(near[0]), head_stride=near.stride(0), b=address(b), inner=address(columns),
        out=address(out), heads=heads, panels=count, width=width, rank=len(inner), threads=thread_count(),
    )  # fmt: skip
    extension().change_table_cpu(number, arguments)
    return out


def constant_fields(
    heads: int,
    key_heads: int,
    width: int,
    scale: float,
    window: int | None,
    bias: Tensor | None,
    tables: DistanceTables | None,
) -> dict[str, Any]:
    """Returns the fields of csrc/cpu/attention.h that a layer has in every call.

    Raises ValueError for heads that cannot share keys, and for a bias or tables that the kernel cannot read.
    """
    if heads % key_heads:
        raise ValueError(f"{key_heads} heads of keys cannot serve {heads} heads of queries")
    fields: dict[str, Any] = {"heads": heads, "width": width, "group": heads // key_heads, "scale": scale}
    if window is not None:
        fields["window"] = window
    if bias is not None:
        check_tensor(bias, torch.float32, (heads, bias.shape[1]))
        fields |= {"bias": address(bias), "reach": bias.shape[1] // 2}
    for name in ("key_table", "query_table"):
        table: Tensor | None = getattr(tables, name, None)
        if table is not None:
            _, lanes = _extension.instruction_set()
            if table.dtype is not torch.float32 or table.shape != (heads, table.shape[1], width, lanes):
                raise ValueError(
                    "distance tables must be as `pack_distances_cpp` returned them, in float32, got "
                    f"{table.dtype} {list(table.shape)}"
                )
            fields |= {name: address(table), "table_panels": table.shape[1]}
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
    tables: DistanceTables | None = None,
    causal: bool = False,
    pages: Tensor | None = None,
) -> Tensor:
    """Takes q [R, H, D], k and v [T, G, D], where only the first dimension may be strided -> [R, H * D]."""
    count, heads, width = q.shape
    _check_rows(q, k, v)
    check_tiles(tiles)
    if pages is not None and pages.dtype is not torch.int32:
        raise ValueError(f"pages must be int32, got {pages.dtype}")
    window, bias = positions.window, positions.distance_bias
    fields = constant_fields(heads, k.shape[1], width, scale, window, bias, tables)
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
    qkv: Tensor, sequences: Sequences, scale: float, positions: Positions = NO_POSITIONS
) -> Tensor:
    q, k, v = qkv.unbind(1)
    return _attend(q, k, v, sequences.tiles, scale, positions)


def cross_attention_cpp(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    return _attend(q, k, v, sequences.tiles, q.shape[-1] ** -0.5)


def causal_attention_cpp(
    q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, pages: Tensor | None = None
) -> Tensor:
    return _attend(q, k, v, sequences.tiles, q.shape[-1] ** -0.5, causal=True, pages=pages)


def disentangled_attention_cpp(
    qkv: Tensor, sequences: Sequences, scale: float, tables: DistanceTables
) -> Tensor:
    q, k, v = qkv.unbind(1)
    return _attend(q, k, v, sequences.tiles, scale, tables=tables)
