"""Distance tables in panels, as the attention kernel of csrc/cpu reads them, also changed by adapters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._sequences import DistanceTables
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels._updates import Factors, TableUpdate


@dataclass(frozen=True, slots=True, eq=False)
class PackedTables(DistanceTables):
    """The tables have a panel [D, lanes] for every `lanes` columns that follow each other: [H, P, D, lanes].

    Lanes are keys in the key table, by distance j - i, and queries in the query table, by i - j. The columns
    of these distances are int32 [lanes + 2 * reach + 1 + lanes]: the ends come `lanes` times more, as
    distances further out have them too. Neighbouring distances have the same column or neighbouring ones.
    In bfloat16 the panels have pairs of neighbours of the D: [H, P, ceil(D / 2), lanes, 2].
    """

    key_columns: Tensor
    query_columns: Tensor


def pack_distances_cpp(
    tables: DistanceTables, empty: Callable[..., Tensor] = torch.empty, bfloat16: bool = False
) -> PackedTables:
    """Packs [H, D, buckets] into panels: one column for neighbouring distances of one bucket."""
    key, query = _sides(tables)
    key_table = _panels(tables.key_table, _distinct(key), empty, bfloat16)
    query_table = _panels(tables.query_table, _distinct(query), empty, bfloat16)
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


def _panels(
    table: Tensor | None, columns: Tensor, empty: Callable[..., Tensor], bfloat16: bool
) -> Tensor | None:
    if table is None:
        return None
    heads, width, _ = table.shape
    _, lanes = _extension.instruction_set()
    panels = table.index_select(2, columns).view(heads, width, -1, lanes).transpose(1, 2)
    if bfloat16:
        panels = _pairs(panels)
    return empty(*panels.shape, dtype=panels.dtype, device=table.device).copy_(panels)


def _pairs(panels: Tensor) -> Tensor:
    """Rounds [..., D, lanes] to bfloat16 [..., ceil(D / 2), lanes, 2]."""
    even = F.pad(panels, (0, 0, 0, panels.shape[-2] % 2)).to(torch.bfloat16)
    return even.view(*even.shape[:-2], -1, 2, even.shape[-1]).transpose(-2, -1).contiguous()


def _singles(pairs: Tensor, width: int) -> Tensor:
    """Returns the float32 [..., D, lanes] of pairs."""
    singles: Tensor = pairs.transpose(-2, -1).flatten(-3, -2)
    return singles[..., :width, :].float().contiguous()


def changed_tables(tables: DistanceTables, update: TableUpdate, longest: int) -> PackedTables:
    """Returns what an update makes of the panels that texts of at most so many tokens read.

    Panels in bfloat16 are added to as they are, and the result is rounded once more.
    """
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
    inner, b = factors.inner.index_select(1, _distinct(buckets)[start * lanes : end * lanes]), factors.b
    if table.dtype is torch.bfloat16:
        near = _singles(near, len(b) // len(near))
    heads, count, width, _ = near.shape
    if b.shape != (heads * width, len(inner)):
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
    return _pairs(out) if table.dtype is torch.bfloat16 else out, columns


def table_fields(heads: int, width: int, table: Tensor | None, columns: Tensor, bfloat16: bool) -> Any:
    if table is None:
        return extension().DistanceTable()
    _, lanes = _extension.instruction_set()
    check_tensor(columns, torch.int32, columns.shape)
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    words = (ceil_div(width, 2), lanes, 2) if bfloat16 else (width, lanes)
    if table.dtype is not dtype or table.shape != (heads, table.shape[1], *words):
        raise ValueError(
            f"distance tables must be as `pack_distances_cpp` returned them, in {dtype}, got "
            f"{table.dtype} {list(table.shape)}"
        )
    reach = len(columns) // 2 - lanes
    return extension().DistanceTable(
        panels=address(table), column_of=address(columns), count=table.shape[1], reach=reach
    )


pack_distances_cpp_bfloat16 = partial(pack_distances_cpp, bfloat16=True)
