"""Parity on a GPU, in every dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import families
from tests.parity import check_logits
from tests.tiny import ALL_SCORERS, ENCODERS


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits(encoder: str, scorer: str, dtype: torch.dtype) -> None:
    check_logits(encoder, scorer, dtype, "cuda")


@pytest.mark.parametrize("kind", families.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_kinds(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    families.check(kind, dtype, "cuda", tmp_path)
