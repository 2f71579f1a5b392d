"""Streams on a GPU give the answers of the CPU, with windows, limits and sessions that come and go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gliclass_fast.streaming import SlidingWindowStrategy, StreamingZeroShotClassificationPipeline
from tests.sentences import TEXTS
from tests.streaming.scripts import tiny_reference
from tests.streaming.test_pipeline import assert_same_answers
from tests.tiny import byte_tokenizer, loaded


@pytest.mark.parametrize(
    "settings", [{}, {"max_cache_len": 40}, {"default_strategy": SlidingWindowStrategy(24)}]
)
def test_every_chunk_equals_the_cpu(settings: dict[str, Any]) -> None:
    cpu, gpu = (
        StreamingZeroShotClassificationPipeline(
            loaded(tiny_reference(), device, dtype=torch.float32), byte_tokenizer(), device=device, **settings
        )
        for device in ("cpu", "cuda")
    )
    texts = [text for text in TEXTS if text]
    for start in range(0, 80, 16):
        names = [name for name in map(str, range(len(texts))) if (int(name) + start // 16) % 4]
        chunks = [texts[int(name)][start : start + 16] for name in names]
        arguments: dict[str, Any] = {"labels": ["a", "sport"], "session_ids": names, "threshold": 0.0}
        assert_same_answers(gpu(chunks, **arguments), cpu(chunks, **arguments))
