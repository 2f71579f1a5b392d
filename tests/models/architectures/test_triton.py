"""Whole models on the Triton kernels, interpreted where there is no GPU, give the reference's logits."""

from __future__ import annotations

import pytest
import torch

from tests.parity import assert_parity
from tests.sentences import SHORT_LABELS, SHORT_TEXTS
from tests.tiny import VECTOR_POOLINGS, reference_model

SAMPLE = ("avg", "max")  # the kernel's own tests have all of them; other whole models here pool the first


@pytest.mark.parametrize(
    "pooling",
    [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.nightly) for name in VECTOR_POOLINGS],
)
def test_poolings(pooling: str) -> None:
    model = reference_model(
        "bert", scorer_type="hopfield", pooling_strategy=pooling, class_token_pooling="average",
        extract_text_features=True, use_calibrator=True, normalize_features=True,
    )  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert_parity(model, SHORT_TEXTS, SHORT_LABELS, device=device, backend="triton")
