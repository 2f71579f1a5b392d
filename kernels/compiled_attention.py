"""The attention kernel of csrc/cpu as PyTorch operations: their contracts stand in attention.py,
causal_attention.py and disentangled_attention.py.

The kernel computes in float32, on as many threads as PyTorch uses, in the widest vectors the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from gliclass_fast.kernels._updates import Factors, TableUpdate


@dataclass(frozen=True, slots=True, eq=False)
class PackedTables(DistanceTables):
    """The tables have a panel [D, lanes] for every `lanes` columns that follow each other: [H, P, D, lanes].

    Lanes are keys in the key table, by distance j - i, and queries in the query table, by i - j. The columns
    of these distances are int32 [lanes + 2 * reach + 1 + lanes]: the ends come `lanes` times more, as
    distances further out have them too. Neighbouring distances have the same column or neighbouring ones.
    """

    key_columns: Tensor
    query_columns: Tensor


def pack_distances_cpp(tables: DistanceTables, empty: Callable[..., Tensor] = torch.empty) -> PackedTables:
    """Packs [H, D, buckets] into [H, P, D, lanes]: one column for neighbouring distances of one bucket."""
    key, query = _sides(tables)
    key_table = _panels(tables.key_table, _distinct(key), empty)
    query_table = _panels(tables.query_table, _distinct(query), empty)
    return PackedTables(key_table, query_table, tables.bucket_of, _columns(key), _columns(query))


def _sides(tables: DistanceTables) -> tuple[Tensor, Tensor]:
    """Returns the buckets of j - i and of i - j."""
    return tables.bucket_of.flip(0), tables.bucket_of


def _distinct(buckets: Tensor) -> Tensor:
    """Returns the buckets of distances without repetition, and the last one until they fill panels."""
    _, lanes = _extension.instruction_set()
    found = buckets.unique_consecutive()
    return torch.cat((found, found[-1:].expand(-len(found) % lanes)))


def _columns(buckets: Tensor) -> Tensor:
    """Returns the place that the bucket of every distance has in `_distinct`."""
    _, lanes = _extension.instruction_set()
    columns = torch.cat((buckets.new_zeros(1), (buckets.diff() != 0).cumsum(0)))
    return torch.cat((columns[:1].expand(lanes), columns, columns[-1:].expand(lanes))).int()


def _panels(table: Tensor | None, columns: Tensor, empty: Callable[..., Tensor]) -> Tensor | None:
    if table is None:
        return None
    heads, width, _ = table.shape
    _, lanes = _extension.instruction_set()
    panels = table.index_select(2, columns).view(heads, width, -1, lanes).transpose(1, 2)
    return empty(*panels.shape, dtype=table.dtype, device=table.device).copy_(panels)


def changed_tables(tables: DistanceTables, update: TableUpdate, longest: int) -> PackedTables:
    """Returns what an update makes of the panels that texts of at most so many tokens read."""
    assert isinstance(tables, PackedTables)
    key, query = _sides(tables)
    parts = (
        _changed(tables.key_table, tables.key_columns, key, update.key, longest),
        _changed(tables.query_table, tables.query_columns, query, update.query, longest),
    )
    (key_table, key_columns), (query_table, query_columns) = parts
    return PackedTables(key_table, query_table, tables.bucket_of, key_columns, query_columns)


def _changed(
    table: Tensor | None, columns: Tensor, buckets: Tensor, factors: Factors | None, longest: int
) -> tuple[Tensor | None, Tensor]:
    """Returns table + b @ inner, [H * D, r] x [r, buckets], for the distances of short texts; and columns."""
    if table is None:
        return None, columns
    number, lanes = _extension.instruction_set()
    middle = len(columns) // 2
    farthest = min(longest, middle)
    first, last = int(columns[middle - farthest]), int(columns[middle + farthest])
    start, end = first // lanes, last // lanes + 1
    near = table[:, start:end]
    columns = columns.clamp(first, last) - start * lanes
    if factors is None:
        return near.contiguous(), columns
    heads, count, width, _ = near.shape
    inner, b = factors.inner.index_select(1, _distinct(buckets)[start * lanes : end * lanes]), factors.b
    if b.shape != (heads * width, len(inner)) or near.stride()[1:] != (width * lanes, lanes, 1):
        raise ValueError(f"a change of shape {list(b.shape)} does not fit a table of {list(near.shape)}")
    for each in (near, inner, b):
        if each.dtype is not torch.float32:
            raise ValueError(f"needs float32, got {each.dtype}")
    out = torch.empty(near.shape, dtype=torch.float32, device=near.device)
    arguments = extension().TableChange(
        table=address(near[0]), head_stride=near.stride(0), b=address(b), inner=address(inner),
        out=address(out), heads=heads, panels=count, width=width, rank=len(inner), threads=thread_count(),
    )  # fmt: skip
    extension().change_table_cpu(number, arguments)
    return out, columns


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
        fields["window"] = min(window, 1 << 30)  # sums of it and places fit into 32 bits
    if bias is not None:
        check_tensor(bias, torch.float32, (heads, bias.shape[1]))
        fields |= {"bias": address(bias), "reach": bias.shape[1] // 2}
    if tables is not None:
        if not isinstance(tables, PackedTables):
            raise ValueError("distance tables must be as `pack_distances_cpp` returned them")
        fields["key_table"] = _table_fields(heads, width, tables.key_table, tables.key_columns)
        fields["query_table"] = _table_fields(heads, width, tables.query_table, tables.query_columns)
    return fields


def _table_fields(heads: int, width: int, table: Tensor | None, columns: Tensor) -> Any:
    if table is None:
        return extension().DistanceTable()
    _, lanes = _extension.instruction_set()
    check_tensor(columns, torch.int32, columns.shape)
    if table.dtype is not torch.float32 or table.shape != (heads, table.shape[1], width, lanes):
        raise ValueError(
            "distance tables must be as `pack_distances_cpp` returned them, in float32, got "
            f"{table.dtype} {list(table.shape)}"
        )
    reach = len(columns) // 2 - lanes
    return extension().DistanceTable(
        panels=address(table), column_of=address(columns), count=table.shape[1], reach=reach
    )


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
    qkv: Tensor, sequences: Sequences, scale: float, tables: PackedTables
) -> Tensor:
    q, k, v = qkv.unbind(1)
    return _attend(q, k, v, sequences.tiles, scale, tables=tables)
