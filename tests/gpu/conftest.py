"""Tests of this folder need a CUDA device, and are the only ones that may be skipped for the lack of one."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
