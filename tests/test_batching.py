"""Packing and batch planning."""

from __future__ import annotations

import numpy as np
import pytest

from gliclass_fast.batch import EncodedPrompt, pack, plan_batches


def prompt(
    ids: list[int], text_start: int, labels: list[tuple[int, int]], has_example: bool = False
) -> EncodedPrompt:
    starts, ends = (np.array(column, dtype=np.int32) for column in zip(*labels, strict=True))
    return EncodedPrompt(np.array(ids, dtype=np.int32), text_start, starts, ends, has_example, 0)


def test_pack_by_hand() -> None:
    batch = pack(
        [prompt([1, 9, 5, 8, 2], 3, [(1, 3)]), prompt([1, 9, 9, 8, 7, 2], 3, [(1, 2), (2, 3)], True)]
    )
    assert batch.token_ids.tolist() == [1, 9, 5, 8, 2, 1, 9, 9, 8, 7, 2]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    assert batch.segments.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 2]
    assert batch.cu_seqlens.tolist() == [0, 5, 11]
    assert batch.text_spans.tolist() == [[3, 5], [8, 11]]
    assert batch.label_spans.tolist() == [[1, 3], [6, 7], [7, 8]]
    assert batch.label_text.tolist() == [0, 1, 1]
    assert batch.cu_labels.tolist() == [0, 1, 3]
    assert batch.max_seqlen == 16
    assert {getattr(batch, name).dtype for name in ("token_ids", "segments", "label_spans")} == {
        batch.positions.dtype
    }


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
