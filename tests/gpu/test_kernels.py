"""Every Triton kernel is right on a GPU in every dtype; the interpreter used elsewhere has no bfloat16."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.cases import CASES, check


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_contract(name: str, dtype: torch.dtype) -> None:
    check(name, "triton", dtype, "cuda")
