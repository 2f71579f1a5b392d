"""What the operations with adapters are told: which adapter every row has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.kernels._sequences import Sequences

Run = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class AdapterRows:
    """Every row has the adapter in a slot of the stores, or none; rows with one adapter stand together.

    The references and the CPU kernels walk through runs of rows; GPU kernels read the slots alone.
    """

    slots: Tensor  # int32 [T], -1 for rows without an adapter

    def at(self, places: Tensor) -> AdapterRows:
        """Returns the same for some of the rows, in the order of their places [R]."""
        return AdapterRows(self.slots[places])

    @cached_property
    def runs(self) -> list[Run]:
        """Returns (slot, first row, end of rows) of neighbours with one adapter; it waits for the device."""
        slots = self.slots.cpu().numpy()
        edges = [0, *(np.flatnonzero(slots[1:] != slots[:-1]) + 1).tolist(), len(slots)]
        return [(int(slots[start]), start, end) for start, end in pairwise(edges)]

    @cached_property
    def _splits(self) -> dict[Sequences, list[tuple[Run, Sequences]]]:
        return {}

    def split(self, sequences: Sequences) -> list[tuple[Run, Sequences]]:
        """Returns every run with its own sequences, whose rows and keys count from the start of the run.

        They are kept with the sequences, which all layers of a batch share. This waits for the device.
        """
        if sequences not in self._splits:
            self._splits[sequences] = [(run, _between(sequences, *run[1:])) for run in self.runs]
        return self._splits[sequences]


def _between(sequences: Sequences, start: int, end: int) -> Sequences:
    tiles = sequences.tiles[1 : 1 + int(sequences.tiles[0, 0])]
    own = (tiles[(tiles[:, 0] >= start) & (tiles[:, 0] < end)] - start).clamp_min_(0)
    first = sequences.tiles[:1].clone()
    first[0, 0] = len(own)
    bounds = sequences.bounds.clamp(start, end) - start
    return Sequences(bounds, None, torch.cat((first, own)), sequences.longest)
