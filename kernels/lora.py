"""LoRA adapters (Hu et al., arXiv:2106.09685) of many texts in one batch: every row has its own update.

- lora_add: activation(y + update), where update[t, columns] = x[t] @ a.T @ b.T for every part (columns, a, b)
  of the adapter in the slot of row t, and 0 for a row without one. Shapes: y [T, N], x [T, K], a [r, K],
  b [n, r] -> [T, N], which may be y, overwritten. `rows` is an `AdapterRows`, `store` what `lora_store_*`
  returned, `activation` one of linear.py.
- lora_store: makes the store of one linear map, which holds an `Update` per slot.

A part is what one adapter adds to the columns of one stock matrix; queries, keys and values are three parts
of one map. The scale of an adapter is in its b.

The reference multiplies whole runs of rows: two products per run and part, whatever the number of texts. Its
store keeps every update in its own rank. A CPU's compiled kernel does the same (compiled_lora.py). Triton's
store has one tensor of all A, [S, P * R, K], and one of all B, [S, N, R], with the rank R of a bucket: an
adapter of a smaller rank is filled up with zeros. One kernel makes x A^T of all parts, another adds the
product with B^T. A block of rows goes through the adapters that occur in it, one after the other, so that
neither kernel needs to know where an adapter starts: one recording serves any mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._triton import tl, triton
from gliclass_fast.kernels._updates import Update, slots_with
from gliclass_fast.kernels.linear import ACTIVATIONS, activated

RANKS = (8, 16, 32, 64, 128, 256)  # the buckets of ranks; a larger rank is its own bucket
NONE = 1 << 30  # This is above all slots.
# The table maps bytes per value to rows, ranks and depth per block of the first kernel, then to rows and
# columns per block of the second.
TILE = {2: (32, 64, 64, 64, 64), 4: (32, 32, 32, 32, 32)}


class StoredUpdate(NamedTuple):
    """Holds what a `ListedStore` makes of an `Update`."""

    a: Tensor  # [R, K], of all parts
    pieces: list[tuple[slice, slice, Tensor]]  # the columns, the ranks and B [n, r] of each part


class ListedStore:
    """Keeps the update of every slot as it is, in the dtype of the map."""

    def __init__(self, bounds: Sequence[int], depth: int, like: Tensor) -> None:
        """Takes the bounds of the map's parts, 0 to N, the number of its inputs, and a tensor like it."""
        self._like = like
        self.updates: dict[int, StoredUpdate] = {}

    def put(self, slot: int, update: Update) -> bool:
        """Sets the update of a slot, which may be empty; tells whether the store moved, which it never does.

        It replaces what is there, and touches nothing that a call in progress reads.
        """
        self.updates.pop(slot, None)
        if update:
            self.updates[slot] = self.packed(update)
        return False

    def packed(self, update: Update) -> StoredUpdate:
        """Returns what is kept of an update."""
        stacked, pieces, rank = torch.cat([part.a for part in update]).to(self._like), [], 0
        for part in update:
            columns, ranks = (part.start, part.start + len(part.b)), (rank, rank + len(part.a))
            pieces.append((slice(*columns), slice(*ranks), part.b.to(self._like)))
            rank += len(part.a)
        return StoredUpdate(stacked, pieces)

    @property
    def nbytes(self) -> int:
        """Counts the bytes that it holds."""
        return sum(a.nbytes + sum(b.nbytes for _, _, b in pieces) for a, pieces in self.updates.values())


class StackedStore:
    """Keeps the updates of all slots in two tensors, which move only where a larger rank or slot comes.

    It may hold fewer slots than there are: an adapter in one of the others does not change the map.
    """

    def __init__(self, bounds: Sequence[int], depth: int, like: Tensor) -> None:
        """Takes the bounds of the map's parts, 0 to N, the number of its inputs, and a tensor like it."""
        self.bounds, self._depth = tuple(bounds), depth
        self.a = like.new_zeros(0, 0, depth)
        self.b = like.new_zeros(0, self.bounds[-1], 0)

    @property
    def rank(self) -> int:
        """Returns R."""
        return self.b.shape[2]

    def put(self, slot: int, update: Update) -> bool:
        """Sets the update of a slot, which may be empty; tells whether the store moved to other memory."""
        rank, slots = max((len(part.a) for part in update), default=0), len(self.a)
        moves = rank > self.rank or (bool(update) and slot >= slots)
        if moves:
            self._grow(next((each for each in RANKS if each >= rank), rank), slot)
        if slot < len(self.a):
            self.a[slot] = 0
            self.b[slot] = 0
        for part in update:
            place = max(n for n, bound in enumerate(self.bounds[:-1]) if bound <= part.start)
            own = len(part.a)
            self.a[slot, place * self.rank : place * self.rank + own] = part.a
            self.b[slot, part.start : part.start + len(part.b), :own] = part.b
        return moves

    def _grow(self, rank: int, slot: int) -> None:
        parts, before = len(self.bounds) - 1, self.rank
        slots, rank = max(len(self.a), slots_with(slot)), max(rank, before)
        a = self.a.new_zeros(slots, parts, rank, self._depth)
        b = self.b.new_zeros(slots, self.bounds[-1], rank)
        a[: len(self.a), :, :before] = self.a.view(len(self.a), parts, before, self._depth)
        b[: len(self.b), :, :before] = self.b
        self.a, self.b = a.view(slots, parts * rank, self._depth), b

    @property
    def nbytes(self) -> int:
        """Counts the bytes that it holds."""
        return self.a.nbytes + self.b.nbytes


lora_store_reference, lora_store_triton = ListedStore, StackedStore


def lora_add_reference(
    y: Tensor, x: Tensor, rows: AdapterRows, store: ListedStore, activation: str = "none"
) -> Tensor:
    for slot, start, end in rows.runs:
        if slot in store.updates:
            a, pieces = store.updates[slot]
            inner, own = x[start:end] @ a.T, y[start:end]
            for columns, ranks, b in pieces:
                own[:, columns].addmm_(inner[:, ranks], b.T)
    return ACTIVATIONS[activation](y)


@triton.jit
def _slots_of(row, slots, rows, held):
    """Returns the slot of every row, -1 for none."""
    slot = tl.load(slots + row, mask=row < rows, other=-1)
    return tl.where(slot < held, slot, -1)


@triton.jit
def _add_products(acc, x_place, own, weight_place, inside, DEPTH: tl.constexpr, BLOCK: tl.constexpr):
    """Adds the products of the rows of x that are `own` with the rows of the weight that are `inside`."""
    depth = tl.arange(0, BLOCK)
    for start in range(0, DEPTH, BLOCK):
        there = (start + depth < DEPTH)[None, :]
        values = tl.load(x_place + start, mask=own[:, None] & there, other=0.0)
        weights = tl.load(weight_place + start, mask=inside[:, None] & there, other=0.0)
        acc = tl.dot(values, tl.trans(weights), acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=["rows", "held"])
def _shrink_kernel(
    x, a, slots, out, rows, held, DEPTH: tl.constexpr, RANKS: tl.constexpr, NONE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_RANKS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    rank = tl.program_id(1) * BLOCK_RANKS + tl.arange(0, BLOCK_RANKS)
    depth = tl.arange(0, BLOCK_DEPTH)
    slot = _slots_of(row, slots, rows, held)
    x_place = x + row.to(tl.int64)[:, None] * DEPTH + depth[None, :]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_RANKS], tl.float32)
    current = tl.min(tl.where(slot < 0, NONE, slot))
    while current < NONE:
        a_place = a + (current.to(tl.int64) * RANKS + rank)[:, None] * DEPTH + depth[None, :]
        acc = _add_products(acc, x_place, slot == current, a_place, rank < RANKS, DEPTH, BLOCK_DEPTH)
        current = tl.min(tl.where(slot <= current, NONE, slot))
    place = out + row.to(tl.int64)[:, None] * RANKS + rank[None, :]
    tl.store(place, acc.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (rank < RANKS)[None, :])


@triton.jit(do_not_specialize=["rows", "held"])
def _expand_kernel(
    inner, b, slots, y, rows, held, FIRST: tl.constexpr, END: tl.constexpr, WIDTH: tl.constexpr,
    OFFSET: tl.constexpr, RANKS: tl.constexpr, RANK: tl.constexpr, NONE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_RANK: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = FIRST + tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    rank = tl.arange(0, BLOCK_RANK)
    slot = _slots_of(row, slots, rows, held)
    inner_place = inner + row.to(tl.int64)[:, None] * RANKS + OFFSET + rank[None, :]
    acc = tl.zeros([BLOCK_ROWS, BLOCK_WIDTH], tl.float32)
    current = tl.min(tl.where(slot < 0, NONE, slot))
    while current < NONE:
        b_place = b + (current.to(tl.int64) * WIDTH + column)[:, None] * RANK + rank[None, :]
        acc = _add_products(acc, inner_place, slot == current, b_place, column < END, RANK, BLOCK_RANK)
        current = tl.min(tl.where(slot <= current, NONE, slot))
    place = y + row.to(tl.int64)[:, None] * WIDTH + column[None, :]
    changed = (row < rows)[:, None] & (column < END)[None, :]
    if ACTIVATION == "none":
        changed = changed & (slot >= 0)[:, None]
    acc += tl.load(place, mask=changed, other=0.0).to(tl.float32)
    acc = activated(acc, ACTIVATION, y.dtype.element_ty == tl.float32)
    tl.store(place, acc.to(y.dtype.element_ty), mask=changed)


def lora_add_triton(
    y: Tensor, x: Tensor, rows: AdapterRows, store: StackedStore, activation: str = "none"
) -> Tensor:
    x, (count, depth), ranks = x.contiguous(), x.shape, store.a.shape[1]
    few_rows, block_ranks, block_depth, block_rows, block_width = TILE[x.element_size()]
    inner = torch.empty(count, ranks, dtype=x.dtype, device=x.device)
    _shrink_kernel[(ceil_div(count, few_rows), ceil_div(ranks, block_ranks))](
        x, store.a, rows.slots, inner, count, len(store.a), DEPTH=depth, RANKS=ranks, NONE=NONE,
        BLOCK_ROWS=few_rows, BLOCK_RANKS=block_ranks, BLOCK_DEPTH=block_depth, num_warps=8, num_stages=2,
    )  # fmt: skip
    for part, (first, end) in enumerate(zip(store.bounds, store.bounds[1:], strict=False)):
        _expand_kernel[(ceil_div(count, block_rows), ceil_div(end - first, block_width))](
            inner, store.b, rows.slots, y, count, len(store.b), FIRST=first, END=end, WIDTH=y.shape[1],
            OFFSET=part * store.rank, RANKS=ranks, RANK=store.rank, NONE=NONE,
            BLOCK_ROWS=block_rows, BLOCK_WIDTH=block_width, BLOCK_RANK=min(64, max(16, store.rank)),
            ACTIVATION=activation, num_warps=4, num_stages=1,
        )  # fmt: skip
    return y
