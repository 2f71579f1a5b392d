"""Parity on a GPU: float32 within 1e-4; 16-bit no further off than twice the reference's own 16-bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from tests.accuracy import assert_same_logits, assert_sixteen_bit_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import ALL_SCORERS, ENCODERS, alone, byte_tokenizer, reference_model, reference_pipeline


def logits_on_gpu(model: Any, dtype: torch.dtype) -> list[np.ndarray]:
    ours = GLiClassModel.from_gliclass(model, device="cuda", dtype=dtype)
    pipeline = ZeroShotClassificationPipeline(
        ours, byte_tokenizer(), device="cuda", progress_bar=False, batch_tokens=256
    )
    return [each["logits"] for each in pipeline.get_embeddings(TEXTS, LABELS)]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("scorer", ALL_SCORERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits(encoder: str, scorer: str, dtype: torch.dtype) -> None:
    model = reference_model(encoder, scorer_type=scorer, extract_text_features=True)
    exact = alone(reference_pipeline(model), TEXTS, LABELS)
    found = logits_on_gpu(model, dtype)
    if dtype is torch.float32:
        for ours, theirs in zip(found, exact, strict=True):
            assert_same_logits(ours, theirs)
        return
    low = reference_pipeline(model)
    low.pipe.model.to(device="cuda", dtype=dtype)
    low.pipe.device = torch.device("cuda")
    assert_sixteen_bit_logits(found, exact, alone_in_float(low, TEXTS, LABELS))


def alone_in_float(pipeline: Any, texts: list[str], labels: list[list[str]]) -> list[np.ndarray]:
    """The reference's 16-bit logits at batch size 1 (get_embeddings cannot turn bfloat16 into NumPy)."""
    found = []
    for text, own in zip(texts, labels, strict=True):
        inputs = pipeline.pipe.prepare_inputs([text], own, same_labels=True)
        with torch.no_grad():
            output = pipeline.pipe.model(**inputs, max_num_classes=len(own))
        found.append(output.logits[0].float().cpu().numpy())
    return found
