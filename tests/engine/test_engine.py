"""The engine feeds a device chunks ahead of results and halves where memory runs out, and keeps the order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.engine import engine
from gliclass_fast.engine.engine import Engine, growing
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.transfer import PendingLogits
from gliclass_fast.text.prompts import Request
from tests.accuracy import assert_unchanged
from tests.sentences import LABELS, TEXTS
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

REQUESTS = [Request(text, tuple(own)) for text, own in zip(TEXTS, LABELS, strict=True)]


@pytest.fixture
def tiny() -> Engine:
    return fast_pipeline(reference_model()).engine


def logits(tiny: Engine, **options: Any) -> list[np.ndarray]:
    return [each.logits for each in tiny.score(REQUESTS, **options)]


def check_same(found: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert_unchanged(ours, theirs)


@pytest.mark.parametrize("labels_per_pass", [None, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_chunks_change_nothing(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch, size: int, labels_per_pass: int | None
) -> None:
    whole = logits(tiny, labels_per_pass=labels_per_pass)
    monkeypatch.setattr(engine, "CHUNK", size)
    check_same(logits(tiny, labels_per_pass=labels_per_pass), whole)


def test_a_chunk_is_launched_before_the_one_ahead_of_it_is_waited_for(
    tiny: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    score, wait = LoadedNetwork.score, PendingLogits.wait

    def launching(model: LoadedNetwork, prompts: Sequence[EncodedPrompt]) -> PendingLogits:
        events.append("launch")
        return score(model, prompts)

    def waiting(pending: PendingLogits) -> np.ndarray:
        events.append("wait")
        return wait(pending)

    monkeypatch.setattr(engine, "CHUNK", 1)
    monkeypatch.setattr(LoadedNetwork, "score", launching)
    monkeypatch.setattr(PendingLogits, "wait", waiting)
    logits(tiny)
    assert events == ["launch", *["launch", "wait"] * (len(REQUESTS) - 1), "wait"]


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (torch.OutOfMemoryError("too many"), [7, 7, 3, 1, 2, 4, 2, 2]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), [7, 3, 1, 2, 4, 2, 2]),
        (MemoryError(), [7, 3, 1, 2, 4, 2, 2]),
    ],
    ids=["GPU", "CPU", "Python"],
)
def test_out_of_memory_splits_a_batch(
    error: Exception,
    tries: list[int],
    tiny: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected, vectors = logits(tiny), tiny.embed(REQUESTS)
    tiny.batch_tokens = 10_000
    calls: list[int] = []

    def failing(original: Any, most: int) -> Any:
        def run(model: LoadedNetwork, given: Any) -> Any:
            count = given.num_prompts if hasattr(given, "num_prompts") else len(given)
            calls.append(count)
            if count > most:
                raise error
            return original(model, given)

        return run

    monkeypatch.setattr(LoadedNetwork, "score", failing(LoadedNetwork.score, 2))
    check_same(logits(tiny), expected)
    assert calls == tries and "halves" in caplog.text
    monkeypatch.undo()
    monkeypatch.setattr(LoadedNetwork, "__call__", failing(LoadedNetwork.__call__, 2))
    check_same([each["logits"] for each in tiny.embed(REQUESTS)], [each["logits"] for each in vectors])
    monkeypatch.undo()
    monkeypatch.setattr(LoadedNetwork, "score", failing(LoadedNetwork.score, 0))
    with pytest.raises(torch.OutOfMemoryError):
        tiny.score(REQUESTS)


def test_a_broken_logit_names_its_text(tiny: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CHUNK", 2)
    score = LoadedNetwork.score

    def breaking(model: LoadedNetwork, prompts: Sequence[EncodedPrompt]) -> PendingLogits:
        pending = score(model, prompts)
        labels = [prompt.num_labels for prompt in prompts]
        if 5 in labels:  # the third text has five labels
            pending.host.numpy()[0, sum(labels[: labels.index(5)])] = np.inf
        return pending

    monkeypatch.setattr(LoadedNetwork, "score", breaking)
    with pytest.raises(FloatingPointError, match=r"float32 for text 2 \(counted from 0\):"):
        tiny.score(REQUESTS)


def test_cut_texts_are_counted_over_all_chunks(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine, "CHUNK", 1)
    small = fast_pipeline(reference_model(), byte_tokenizer(), max_length=100).engine
    cut = [each.tokens_cut for each in small.score([Request("a" * n, ("b",)) for n in (10, 200, 300)])]
    assert cut[0] == 0 and cut[1] > 0 and cut[2] == cut[1] + 100
    [record] = caplog.records
    assert f"2 of 3 prompts exceed the window of 100 tokens: text was cut, by at most {cut[2]} tok" in (
        record.message
    )


@pytest.mark.parametrize("count", [0, 1, 32, 33, 64, 1000])
def test_parts_grow_and_cover_everything(count: int) -> None:
    parts = [range(count)[part] for part in growing(count, first=32, most=256)]
    assert [index for part in parts for index in part] == list(range(count))
    assert [len(part) for part in parts[:-1]] == [32, 32, 64, 128, 256, 256, 256][: max(0, len(parts) - 1)]
