"""Label vectors on a GPU, seen with stand-ins for its streams."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast.engine.label_cache import LabelCache
from tests.tiny import byte_tokenizer


class OnGpu:
    """Stands for a loaded network on a GPU."""

    device = torch.device("cuda")
    config = SimpleNamespace(label_backbone_config=SimpleNamespace(max_positions=None))
    inference = staticmethod(nullcontext)

    def label_vectors(self, prompts: list[Any], batch_tokens: int) -> Tensor:
        return torch.randn(len(prompts), 4)


def test_memory_that_another_stream_reads_is_not_given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator of a GPU may give memory to its first stream again once it knows of no other reader."""
    stream, read = SimpleNamespace(record_event=object, wait_event=lambda event: None), set()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(
        Tensor, "record_stream", lambda self, by: read.add((self.data_ptr(), id(by))), raising=False
    )
    model: Any = SimpleNamespace(loaded=OnGpu())
    cache = LabelCache(model, byte_tokenizer(), 512, 256, capacity=64)
    for lists, rows in (([("a", "b"), ("b", "c")], "abc"), ([("a", "b")], ""), ([("a", "c")], "ac")):
        read.clear()
        found = [*cache.vectors(lists), *(cache._vectors[label] for label in rows)]
        assert read == {(each.data_ptr(), id(stream)) for each in found}
