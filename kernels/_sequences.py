"""What the operations over packed sequences are told: which rows see which keys, and how positions count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

TILE_ROWS = 128  # rows of a tile of a work list, at most

_Range = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """N sequences of rows, each of which sees one range of keys; tensors are int32 on one device.

    A reference reads the bounds and the keys, a kernel reads the same ranges as a work list (`_flash`).
    """

    bounds: Tensor  # [N+1]     the rows of sequence n are bounds[n] to bounds[n + 1]
    keys: Tensor | None  # [N, 2] the keys they see; None: the rows of their own sequence
    tiles: Tensor  # [1+W, 4]   the work list
    longest: int  # no sequence has more rows; the number is known without reading the device

    def with_keys(self, keys: Tensor) -> Sequences:
        """The same rows over other keys, int32 [N, 2]; the device makes the work list."""
        rows = self.tiles[1:]
        owner = torch.searchsorted(self.bounds[1:].contiguous(), rows[:, 0].contiguous(), right=True)
        changed = torch.cat((rows[:, :2], keys[owner.clamp(max=len(keys) - 1)]), dim=1)
        return Sequences(self.bounds, keys, torch.cat((self.tiles[:1], changed)), self.longest)

    def ranges(self) -> Iterator[tuple[_Range, _Range]]:
        """The rows of every sequence and the keys they see; this waits for the device."""
        rows = list(pairwise(self.bounds.tolist()))
        keys = rows if self.keys is None else [(start, end) for start, end in self.keys.tolist()]
        return zip(rows, keys, strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """How positions count in `attention`."""

    # (cos, sin), each float32 [P, D / 2] by position, with P at least the longest sequence
    rotary: tuple[Tensor, Tensor] | None = None
    window: int | None = None  # the largest |i - j|
    distance_bias: Tensor | None = None  # float32 [H, 2 * reach + 1], by distance i - j = -reach .. reach


NO_POSITIONS = Positions()


@dataclass(frozen=True, slots=True, eq=False)
class DistanceTables:
    """The projected relative-position embeddings of `disentangled_attention`, a weight-only product.

    They are [H, D, buckets] each, until `pack_distances` gives them the layout of a backend.
    """

    key_table: Tensor | None  # None: the model has no content-to-position term
    query_table: Tensor | None  # None: the model has no position-to-content term
    bucket_of: Tensor  # int64 [2 * reach + 1], the column of every distance -reach .. reach; never decreasing

    @property
    def reach(self) -> int:
        """Distances further out use the first and the last column."""
        return self.bucket_of.numel() // 2
