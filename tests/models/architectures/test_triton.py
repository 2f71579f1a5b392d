"""Whole models on the Triton kernels, interpreted where there is no GPU, against the reference."""

from __future__ import annotations

import pytest
import torch

from gliclass_fast import GLiClassModel
from tests.accuracy import assert_same_logits
from tests.parity import check_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    ALL_SCORERS,
    ENCODERS,
    VECTOR_POOLINGS,
    alone,
    fast_pipeline,
    reference_model,
    reference_pipeline,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scorer", ALL_SCORERS)
def test_logits_in_float16(encoder: str, scorer: str) -> None:
    check_logits(encoder, scorer, torch.float16, DEVICE, "triton")


@pytest.mark.parametrize("pooling", VECTOR_POOLINGS)
def test_poolings(pooling: str) -> None:
    model = reference_model(
        "bert", scorer_type="hopfield", pooling_strategy=pooling, class_token_pooling="average",
        extract_text_features=True, use_calibrator=True, normalize_features=True,
    )  # fmt: skip
    check_exact(model)


def check_exact(model: object) -> None:
    expected = alone(reference_pipeline(model), TEXTS, LABELS)
    ours = GLiClassModel.from_gliclass(model, device=DEVICE, backend="triton")
    for found, wanted in zip(fast_pipeline(ours).get_embeddings(TEXTS, LABELS), expected, strict=True):
        assert_same_logits(found["logits"], wanted)
