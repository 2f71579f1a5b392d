"""Batches are planned within their budget, which texts and tensors share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast.runtime.loaded import BATCH_TOKENS, LoadedNetwork
from gliclass_fast.runtime.packing import plan_batches, run_batches
from tests import families


@pytest.mark.parametrize("budget", [1, 64, 100, 10_000])
def test_batches_hold_every_prompt_once_within_the_budget(budget: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 90, 200).tolist()
    groups = list(plan_batches(lengths, budget))
    assert sorted(index for group in groups for index in group) == list(range(200))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= budget for group in groups)
    flat = [lengths[index] for group in groups for index in group]
    assert flat == sorted(flat, reverse=True)


def test_no_prompts_no_batches() -> None:
    assert list(plan_batches([], 100)) == []


def test_a_prompt_that_does_not_fit_alone_is_an_error() -> None:
    def run(group: list[int]) -> None:
        raise torch.OutOfMemoryError("never")

    with pytest.raises(torch.OutOfMemoryError, match="never"):
        list(run_batches([5, 5, 5], 15, run, lambda: None))


@pytest.mark.parametrize("kind", ["bi-encoder", "decoder-kv"])
def test_tensors_run_in_batches_of_the_budget_of_texts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, sizes = families.pipeline(kind), list[int]()
    pack = LoadedNetwork.pack

    def noted(loaded: LoadedNetwork, prompts: Sequence[Any], *given: Any, **options: Any) -> Any:
        sizes.append(sum(prompt.tokens for prompt in prompts))
        return pack(loaded, prompts, *given, **options)

    texts = [f"text {number} " * 9 for number in range(60)]
    inputs = pipeline.prepare_inputs(texts, ["a", "b"])
    monkeypatch.setattr(LoadedNetwork, "pack", noted)
    many = pipeline.model(**inputs).logits
    assert BATCH_TOKENS["cpu"] // 2 < max(sizes) <= BATCH_TOKENS["cpu"]
    for place in (0, 59):
        alone = pipeline.model(**pipeline.prepare_inputs([texts[place]], ["a", "b"])).logits
        assert torch.equal(alone[0], many[place])
