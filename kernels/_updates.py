"""What an adapter adds to a linear map, and to the tables of disentangled attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

FEWEST_SLOTS = 8


def slots_with(slot: int) -> int:
    """Returns to how many slots a store grows for a new one: a power of two, FEWEST_SLOTS at least."""
    return max(FEWEST_SLOTS, 1 << slot.bit_length())


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Holds what an adapter adds to some outputs of a linear map: b @ a."""

    start: int  # the first of the outputs
    a: Tensor  # [r, K]
    b: Tensor  # [n, r], which includes the adapter's scale


Update = Sequence[Part]


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Holds what an adapter adds to a table: [H * D, buckets] = b @ inner."""

    inner: Tensor  # float32 [r, buckets], a @ rel.T
    b: Tensor  # float32 [H * D, r]


@dataclass(frozen=True, slots=True, eq=False)
class TableUpdate:
    """Holds what an adapter adds to the two tables of a layer."""

    key: Factors | None
    query: Factors | None
