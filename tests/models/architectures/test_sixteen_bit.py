"""16-bit logits have at most twice the reference's own 16-bit error, and equal clear decisions."""

from __future__ import annotations

import pytest
import torch

from tests import families
from tests.pairwise import Row, in_words, pairwise
from tests.parity import assert_parity
from tests.sentences import DISTINCT, LABELS, MANY_SHORT_LABELS, SHORT_TEXTS, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, reference_model

# Triton's interpreter has no bfloat16; tests/gpu has it
RUNS = {
    "float16": (torch.float16, None),
    "bfloat16": (torch.bfloat16, None),
    "bfloat16, all of it": (torch.bfloat16, "reference"),
    "float16, Triton": (torch.float16, "triton"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", pairwise(encoder=tuple(ENCODERS), scorer=ALL_SCORERS, run=tuple(RUNS)), ids=in_words
)
def test_uni_encoder(row: Row) -> None:
    dtype, backend = RUNS[row["run"]]
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    model = reference_model(row["encoder"], scorer_type=row["scorer"], extract_text_features=True)
    sentences = (SHORT_TEXTS, MANY_SHORT_LABELS) if backend == "triton" else (TEXTS, LABELS)
    assert_parity(model, *sentences, dtype=dtype, device=device, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("kind", families.KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_kinds(kind: str, dtype: torch.dtype) -> None:
    assert_parity(families.reference(kind), TEXTS, DISTINCT, dtype=dtype, max_length=512)
