"""Whole models on the backbones of MORE_ENCODERS, against the reference at batch size 1."""

from __future__ import annotations

from typing import Any

import pytest

from gliclass_fast import GLiClassModel
from gliclass_fast.config import UnsupportedConfigError
from tests.accuracy import assert_same_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import (
    MORE_ENCODERS,
    alone,
    fast_pipeline,
    reference_model,
    reference_pipeline,
)


@pytest.mark.parametrize("encoder", MORE_ENCODERS)
@pytest.mark.parametrize("scorer", ["simple", "mlp"])
def test_logits_match(encoder: str, scorer: str) -> None:
    check(reference_model(encoder, scorer_type=scorer))


@pytest.mark.parametrize("encoder", MORE_ENCODERS)
def test_logits_match_with_segment_embeddings(encoder: str) -> None:
    check(reference_model(encoder, use_segment_embeddings=True, pooling_strategy="avg"))


def check(model: Any) -> None:
    expected = alone(reference_pipeline(model), TEXTS, LABELS)
    for found, wanted in zip(fast_pipeline(model).get_embeddings(TEXTS, LABELS), expected, strict=True):
        assert_same_logits(found["logits"], wanted)


def test_talking_heads_are_refused() -> None:
    model = reference_model("deberta", {"talking_head": True})
    with pytest.raises(UnsupportedConfigError, match="talking_head"):
        GLiClassModel.from_gliclass(model, device="cpu")


def test_segment_embeddings_of_another_width_are_refused() -> None:
    model = reference_model("electra", {"embedding_size": 12}, use_segment_embeddings=True)
    with pytest.raises(UnsupportedConfigError, match="embedding_size"):
        GLiClassModel.from_gliclass(model, device="cpu")
