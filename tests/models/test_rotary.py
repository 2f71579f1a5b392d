"""Rotary tables are rounded to the working dtype; a GPU reads them in it, a CPU in float32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gliclass_fast.models.rotary import ROTARY_LENGTH, RotaryTable

FREQUENCIES = [1.0, 0.1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_are_those_of_the_working_dtype(dtype: torch.dtype) -> None:
    angles = torch.arange(ROTARY_LENGTH)[:, None] * torch.tensor(FREQUENCIES)
    found = RotaryTable(FREQUENCIES, torch.empty(0, dtype=dtype))(1)
    for table, exact in zip(found, (angles.cos(), angles.sin()), strict=True):
        assert table.dtype is torch.float32
        torch.testing.assert_close(table, exact.to(dtype).float(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_gpu_reads_as_many_bits_as_its_kernels_multiply(dtype: torch.dtype) -> None:
    device = "meta"  # It stands for a GPU.
    table = RotaryTable(FREQUENCIES, torch.zeros(0, dtype=dtype, device=device))
    places = torch.zeros(3, dtype=torch.int64, device=device)
    made = (*table(1), *table.at(places, 3), *table.at(places, 2 * ROTARY_LENGTH))
    assert {each.dtype for each in made} == {dtype}


def test_a_gpu_has_made_a_longer_table_before_others_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    table: Any = RotaryTable(FREQUENCIES, torch.empty(0))
    table._frequencies = SimpleNamespace(is_cuda=True, device=torch.device("cpu"))  # It stands for a GPU's.
    table._computed = lambda positions: (positions, positions)
    waited = []
    stream = SimpleNamespace(synchronize=lambda: waited.append(list(table.tables)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for length in (3, ROTARY_LENGTH + 1, 2 * ROTARY_LENGTH, 5):
        table(length)
    assert waited == [[ROTARY_LENGTH]] and list(table.tables) == [ROTARY_LENGTH, 2 * ROTARY_LENGTH]
