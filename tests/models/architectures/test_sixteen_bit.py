"""16-bit parity on a CPU: at most twice the reference's own 16-bit error, and equal clear decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import families
from tests.parity import check_logits
from tests.tiny import ALL_SCORERS, ENCODERS


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits(encoder: str, scorer: str, dtype: torch.dtype) -> None:
    check_logits(encoder, scorer, dtype, "cpu")


@pytest.mark.parametrize("kind", families.KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_kinds(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    families.check(kind, dtype, "cpu", tmp_path)
