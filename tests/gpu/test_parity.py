"""Models on a GPU give the reference's logits in every dtype."""

from __future__ import annotations

import pytest
import torch

from tests import families
from tests.parity import assert_parity
from tests.sentences import DISTINCT, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, reference_model


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits(encoder: str, scorer: str, dtype: torch.dtype) -> None:
    model = reference_model(encoder, scorer_type=scorer, extract_text_features=True)
    assert_parity(model, dtype=dtype, device="cuda")


@pytest.mark.parametrize("kind", families.KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_kinds(kind: str, dtype: torch.dtype) -> None:
    assert_parity(families.reference(kind), TEXTS, DISTINCT, dtype=dtype, device="cuda", max_length=512)
