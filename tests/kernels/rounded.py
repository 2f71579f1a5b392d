"""Linear maps that round: on every instruction set of this processor, on emulated tiles, and without any."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Tensor

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._extension import extension
from gliclass_fast.ops import implementation
from tests.kernels.emulated_tiles import LANES, emulated

SHAPES = [(1, 33, 38), (17, 768, 3072), (130, 3072, 768), (2, 5, 7)]
EMULATED = -1  # no number of the extension
SETS = {**extension().instruction_sets(), EMULATED: ("emulated tiles", LANES)}
WAYS = {"reference": None, **{name: number for number, (name, _) in SETS.items()}}


@dataclass(frozen=True)
class Run:
    """A Run is a function of (operation, x, weight, ...) that packs the weight for a backend."""

    backend: str
    in_pairs: bool  # The backend adds two neighbouring products up in 16 bits.

    def __call__(self, operation: str, x: Tensor, weight: Tensor, *rest: object, **options: object) -> Tensor:
        packed = implementation("pack_linear", self.backend)(weight)
        found: Tensor = implementation(operation, self.backend)(x, packed, *rest, **options)
        return found


def use(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the kernels run on an instruction set."""
    if number == EMULATED:
        monkeypatch.setattr(_extension, "compiled", emulated())
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
