"""Disentangled attention where adapters change the projections of relative positions.

- adapted_attention: as `disentangled_attention`, but the rows of a text see the tables of its adapter:

      key_table' = key_table + b_key (a_key rel^T),   query_table' = query_table + b_query (a_query rel^T)

  Its arguments are those of `disentangled_attention`, then `rows`, an `AdapterRows`, and `store`, what
  `table_store_*` returned.
- table_store: makes the store of one layer, which holds a `TableUpdate` per slot. It takes the layer's packed
  tables.

On a CPU a store keeps the factors, which are small, and every call makes the tables that it needs: of one
adapter at a time, and only for the distances that its texts have. A GPU's store keeps whole tables, those of
the layer first, then one copy per slot, so that a recording finds them by the slot of a row. There a tile has
rows of one text, so a kernel reads the slot of its first row alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers
from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._sequences import DistanceTables, Sequences
from gliclass_fast.kernels._updates import Factors, TableUpdate, slots_with
from gliclass_fast.kernels.compiled_attention import (
    disentangled_attention_cpp,
    disentangled_attention_cpp_bfloat16,
)
from gliclass_fast.kernels.compiled_distances import changed_tables
from gliclass_fast.kernels.disentangled_attention import (
    disentangled_attention_reference,
    disentangled_attention_triton,
)


class FactorStore:
    """Keeps the factors of every slot."""

    def __init__(self, tables: DistanceTables) -> None:
        """Takes the tables of the layer without adapters, packed."""
        self.updates: dict[int, TableUpdate] = {}

    def put(self, slot: int, update: TableUpdate | None) -> bool:
        """Sets what a slot changes, None for nothing; tells whether the store moved, which it never does."""
        self.updates.pop(slot, None)
        if update is not None:
            self.updates[slot] = update
        return False

    @property
    def nbytes(self) -> int:
        """Counts the bytes that it holds."""
        found = [each for update in self.updates.values() for each in (update.key, update.query)]
        return sum(each.inner.nbytes + each.b.nbytes for each in found if each is not None)


class TableStore:
    """Keeps the tables of every slot, [1 + S, H, 2 * reach + 1, D] each; the first are the layer's own."""

    def __init__(self, tables: DistanceTables) -> None:
        """Takes the tables of the layer without adapters, packed."""
        self._own = tables
        self.tables = replace(
            tables, key_table=_first(tables.key_table), query_table=_first(tables.query_table)
        )

    def put(self, slot: int, update: TableUpdate | None) -> bool:
        """Sets what a slot changes, None for nothing; tells whether the store moved to other memory."""
        own, bucket_of = self._own, self._own.bucket_of
        held = self.tables.query_table if self.tables.key_table is None else self.tables.key_table
        assert held is not None
        moves = slot + 1 >= len(held) and update is not None
        if moves:
            slots = slots_with(slot)
            self.tables = replace(
                self.tables,
                key_table=_grown(self.tables.key_table, slots),
                query_table=_grown(self.tables.query_table, slots),
            )
        for table, base, factors in (
            (self.tables.key_table, own.key_table, None if update is None else update.key),
            (self.tables.query_table, own.query_table, None if update is None else update.query),
        ):
            if table is not None and base is not None and slot + 1 < len(table):
                table[1 + slot] = base if factors is None else base + _by_row(factors, bucket_of, base)
        return moves

    @property
    def nbytes(self) -> int:
        """Counts the bytes that it holds."""
        held = (self.tables.key_table, self.tables.query_table)
        return sum(each.nbytes for each in held if each is not None)


def _first(table: Tensor | None) -> Tensor | None:
    return None if table is None else table[None]


def _grown(table: Tensor | None, slots: int) -> Tensor | None:
    if table is None:
        return None
    grown = table[:1].repeat(1 + slots, 1, 1, 1)
    grown[: len(table)] = table
    return grown


def _by_row(factors: Factors, bucket_of: Tensor, like: Tensor) -> Tensor:
    """Returns the change as `pack_distances_by_row` lays tables out, [H, 2 * reach + 1, D]."""
    heads, rows, width = like.shape
    change = factors.inner.index_select(1, bucket_of).T @ factors.b.T
    return change.view(rows, heads, width).transpose(0, 1)


table_store_reference = table_store_cpp = FactorStore
table_store_triton = TableStore


def _changed(table: Tensor | None, factors: Factors | None) -> Tensor | None:
    if table is None or factors is None:
        return table
    return table + (factors.b @ factors.inner).view_as(table).to(table.dtype)


def _tables_reference(tables: DistanceTables, update: TableUpdate, longest: int) -> DistanceTables:
    key, query = _changed(tables.key_table, update.key), _changed(tables.query_table, update.query)
    return replace(tables, key_table=key, query_table=query)


def _by_run(
    attend: Callable[..., Tensor],
    changed: Callable[[DistanceTables, TableUpdate, int], DistanceTables],
    empty: Callable[..., Tensor] | None = None,
) -> Callable[..., Tensor]:
    """Returns `adapted_attention` that attends to every run of rows on its own.

    empty: makes the memory of the result, [T, H * D].
    """

    def adapted_attention(
        qkv: Tensor,
        sequences: Sequences,
        scale: float,
        tables: DistanceTables,
        rows: AdapterRows,
        store: FactorStore,
    ) -> Tensor:
        outs = []
        for (slot, start, end), own in rows.split(sequences):
            update = store.updates.get(slot)
            found = tables if update is None else changed(tables, update, own.longest)
            outs.append(attend(qkv[start:end], own, scale, found))
        return torch.cat(outs, out=None if empty is None else empty(len(qkv), outs[0].shape[1]))

    return adapted_attention


adapted_attention_reference = _by_run(disentangled_attention_reference, _tables_reference)
adapted_attention_cpp, adapted_attention_cpp_bfloat16 = (
    _by_run(attend, changed_tables, _buffers.empty)
    for attend in (disentangled_attention_cpp, disentangled_attention_cpp_bfloat16)
)


def with_whole_tables(attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns `adapted_attention` by a kernel that takes the tables of all slots, and every row's slot."""

    def adapted_attention(qkv: Tensor, sequences: Sequences, scale: float, *given: Any) -> Tensor:
        _, rows, store = given  # the store holds the layer's own tables too
        return attend(qkv, sequences, scale, store.tables, rows.slots)

    return adapted_attention


adapted_attention_triton = with_whole_tables(disentangled_attention_triton)
