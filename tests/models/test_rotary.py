"""Rotary tables are rounded to the working dtype; a GPU reads them in it, a CPU in float32."""

from __future__ import annotations

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
