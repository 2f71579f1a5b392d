"""One model against the reference on a device and in a dtype; shared by the CPU and the GPU suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from tests.accuracy import assert_same_logits, assert_sixteen_bit_logits
from tests.sentences import LABELS, TEXTS
from tests.tiny import alone, byte_tokenizer, reference_model, reference_pipeline


def check_logits(
    encoder: str,
    scorer: str,
    dtype: torch.dtype,
    device: str,
    backend: str | None = None,
    backbone: dict[str, Any] | None = None,
) -> GLiClassModel:
    """float32: within 1e-4; 16-bit: the rule of `assert_sixteen_bit_logits`, both in a ragged batch."""
    model = reference_model(encoder, backbone, scorer_type=scorer, extract_text_features=True)
    exact = alone(reference_pipeline(model), TEXTS, LABELS)
    ours = GLiClassModel.from_gliclass(model, device=device, dtype=dtype, backend=backend)
    pipeline = ZeroShotClassificationPipeline(
        ours, byte_tokenizer(), device=device, progress_bar=False, batch_tokens=256
    )
    found = [each["logits"] for each in pipeline.get_embeddings(TEXTS, LABELS)]
    if dtype is torch.float32:
        for mine, theirs in zip(found, exact, strict=True):
            assert_same_logits(mine, theirs)
        return ours
    low = reference_pipeline(model)
    low.pipe.model.to(device=device, dtype=dtype)
    low.pipe.device = torch.device(device)
    assert_sixteen_bit_logits(
        found, exact, [reference_logits(low, *row) for row in zip(TEXTS, LABELS, strict=True)]
    )
    return ours


@torch.no_grad()
def reference_logits(pipeline: Any, text: str, labels: list[str]) -> np.ndarray:
    """The reference's logits at batch size 1 (its get_embeddings cannot turn bfloat16 into NumPy)."""
    inputs = pipeline.pipe.prepare_inputs([text], labels, same_labels=True)
    logits: np.ndarray = (
        pipeline.pipe.model(**inputs, max_num_classes=len(labels)).logits[0].float().cpu().numpy()
    )
    return logits
