"""What the operations over packed sequences are told: which rows see which keys, and how positions count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

TILE_ROWS = 128  # A tile of a work list has at most this number of rows.
PAGE_ROWS = 16  # A page of keys and values has this number of rows.

_Range = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """N sequences of rows see one range of keys each; all tensors are int32 on one device.

    A reference reads the bounds and the keys, and a kernel reads the same ranges as a work list (`_tiles`).
    """

    bounds: Tensor  # [N + 1]: the rows of sequence n are bounds[n] to bounds[n + 1].
    keys: Tensor | None  # [N, 2]: a sequence sees these keys; None means its own rows.
    tiles: Tensor  # [1 + W, 4]: the work list
    # No sequence has more rows, nor has what pads the batch; the host knows the number without the device.
    longest: int

    def with_keys(self, keys: Tensor) -> Sequences:
        """Returns the same rows over other keys, int32 [N, 2]; the device makes the work list."""
        rows = self.tiles[1:]
        owner = torch.searchsorted(self.bounds[1:].contiguous(), rows[:, 0].contiguous(), right=True)
        changed = torch.cat((rows[:, :2], keys[owner.clamp(max=len(keys) - 1)]), dim=1)
        return Sequences(self.bounds, keys, torch.cat((self.tiles[:1], changed)), self.longest)

    def causal(self) -> Sequences:
        """Returns the same rows for `causal_attention`, where they are also the keys."""
        assert self.keys is None
        tiles = self.tiles.clone()
        tiles[:, 3] = torch.minimum(tiles[:, 1], tiles[:, 3])
        return Sequences(self.bounds, None, tiles, self.longest)

    def ranges(self) -> Iterator[tuple[_Range, _Range]]:
        """Returns the rows of every sequence and the keys they see; this waits for the device."""
        rows = list(pairwise(self.bounds.tolist()))
        keys = rows if self.keys is None else [(start, end) for start, end in self.keys.tolist()]
        return zip(rows, keys, strict=True)


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """The fields tell how positions count in `attention`."""

    # (cos, sin) are [P, D / 2] by position, float32, or on a GPU of the queries' dtype. P is at least the
    # length of the longest sequence.
    rotary: tuple[Tensor, Tensor] | None = None
    window: int | None = None  # A row sees keys up to this |i - j|.
    distance_bias: Tensor | None = None  # float32 [H, 2 * reach + 1], by distance i - j = -reach .. reach


NO_POSITIONS = Positions()


@dataclass(frozen=True, slots=True, eq=False)
class DistanceTables:
    """The tables hold the projected relative-position embeddings of `disentangled_attention`.

    They depend on weights only. Each is [H, D, buckets] until `pack_distances` gives it a backend's layout.
    """

    key_table: Tensor | None  # None means that the model has no content-to-position term.
    query_table: Tensor | None  # None means that the model has no position-to-content term.
    bucket_of: Tensor  # int64 [2 * reach + 1]: -reach .. reach have these columns.

    @property
    def reach(self) -> int:
        """Returns the largest distance; distances further out use the first and the last column."""
        return self.bucket_of.numel() // 2
