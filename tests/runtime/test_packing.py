"""Batches are packed as the contract says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gliclass_fast.batch import Capacity, EncodedPrompt, Layout, PackedBatch
from gliclass_fast.runtime.graphs import GraphRunner
from gliclass_fast.runtime.packing import pack, work_list
from tests import families
from tests.tiny import VOCABULARY, fast_pipeline, random_prompt, reference_model


def prompt(
    ids: list[int], text_start: int, labels: list[tuple[int, int]], has_example: bool = False
) -> EncodedPrompt:
    return EncodedPrompt(
        np.array(ids, dtype=np.int32), text_start, np.array(labels, dtype=np.int32), has_example
    )


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
    assert batch.first_rows.tolist() == [3, 8, 1, 6, 7]
    assert batch.cu_labels.tolist() == [0, 1, 3]
    assert batch.max_seqlen == 16
    assert {getattr(batch, name).dtype for name in ("token_ids", "segments", "label_spans")} == {
        batch.positions.dtype
    }


def test_the_work_list_by_hand() -> None:
    rows = np.array([0, 3, 3, 263], dtype=np.int32)
    keys = np.array([[0, 3], [3, 3], [3, 263]], dtype=np.int32)
    tiles = work_list(rows, keys, spare=2)
    assert tiles.tolist() == [
        [5, 128, 0, 0], [3, 131, 3, 263], [131, 259, 3, 263], [259, 263, 3, 263], [0, 3, 0, 3],
        [263, 265, 0, 0],
    ]  # fmt: skip


def test_a_padded_batch_has_the_layout_of_its_capacity() -> None:
    prompts = [prompt([1, 9, 5, 8, 2], 3, [(1, 3)]), prompt([1, 9, 9, 8, 7, 2], 3, [(1, 2), (2, 3)])]
    capacity = Capacity.padded(tokens=32, prompts=6, labels=8, tiles=16)
    batch, tight = pack(prompts, capacity), pack(prompts)
    assert batch.block.shape == (Layout.of(capacity).size,) and (batch.num_prompts, batch.num_labels) == (
        2,
        3,
    )
    assert batch.token_ids.tolist() == [*tight.token_ids.tolist(), *[0] * 21]
    assert batch.cu_seqlens.tolist() == [0, 5, 11, *[11] * 4]
    assert batch.label_spans.tolist() == [[1, 3], [6, 7], [7, 8], *[[11, 11]] * 5]
    assert batch.label_text.tolist() == [0, 1, 1, *[2] * 5]
    assert batch.first_rows.tolist() == [3, 8, *[0] * 4, 1, 6, 7, *[0] * 5]
    assert batch.cu_labels.tolist() == [0, 1, 3, *[3] * 4]
    assert batch.tiles[:4].tolist() == [[3, 128, 0, 0], [5, 11, 5, 11], [0, 5, 0, 5], [11, 32, 0, 0]]
    copied = batch.to("cpu")
    assert copied is batch  # no second copy where none is needed
    encoder_part = [getattr(batch, name).storage_offset() for name in ("token_ids", "positions", "tiles")]
    other = pack(prompts, Capacity.padded(tokens=32, prompts=32, labels=64, tiles=16))
    assert encoder_part == [
        getattr(other, name).storage_offset() for name in ("token_ids", "positions", "tiles")
    ]
    assert all(offset % 4 == 0 for offset in encoder_part)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("whole_text", [False, True])
@pytest.mark.parametrize("tokens", [2, 128, 129, 300])
@pytest.mark.parametrize("rest", [{}, {"has_example": True}, {"text_end": -1}], ids=str)
def test_a_prompt_alone_is_laid_out_as_the_first_of_two(
    tokens: int, whole_text: bool, padded: bool, rest: dict[str, Any]
) -> None:
    """`pack` has a shorter way for one prompt, the batch whose latency counts."""
    labels = min(tokens // 2, 140)
    spans = np.stack((np.arange(labels), np.arange(labels) + 1), axis=1).astype(np.int32)
    if "text_end" in rest:
        rest = {"text_end": tokens - 1}
    single = EncodedPrompt(np.arange(7, 7 + tokens, dtype=np.int32), labels, spans, **rest)
    room = Capacity.padded(tokens=640, prompts=16, labels=400, tiles=64) if padded else None
    alone, both = (pack([single] * count, room, whole_text, label_offset=1) for count in (1, 2))
    for name, count in (
        ("token_ids", tokens), ("positions", tokens), ("segments", tokens), ("cu_seqlens", 2),
        ("text_spans", 1), ("label_spans", labels), ("label_text", labels), ("cu_labels", 2),
    ):  # fmt: skip
        assert torch.equal(getattr(alone, name)[:count], getattr(both, name)[:count]), name
    for name, rows in (("tiles", tokens), ("label_tiles", labels)):
        assert tiles_of(alone, name, rows) == tiles_of(both, name, rows), name
    firsts = [torch.cat((each.first_rows[:1], label_rows(each)[:labels])) for each in (alone, both)]
    assert torch.equal(*firsts)


def test_all_layers_are_given_the_same_sequences() -> None:
    """What a layer keeps with them, as the split by adapters, is there for the next."""
    batch = pack([random_prompt(20, 2)])
    assert batch.sequences is batch.sequences


def tiles_of(batch: PackedBatch, name: str, rows: int) -> list[list[int]]:
    """Gives the tiles of the first so many rows, in order of rows."""
    (count, *_), *tiles = getattr(batch, name).tolist()
    return sorted(tile for tile in tiles[:count] if tile[0] < rows and tile[3] > 0)


def label_rows(batch: PackedBatch) -> torch.Tensor:
    return batch.first_rows[batch.capacity.prompts :]


@pytest.mark.parametrize("foreign", [VOCABULARY, 1 << 30, -1, -(1 << 31)])
@pytest.mark.parametrize("count", [1, 3])
def test_a_token_without_an_embedding(foreign: int, count: int) -> None:
    """A GPU would read it from beyond the table."""
    prompts = [random_prompt(20, 2, seed) for seed in range(count)]
    prompts[-1].token_ids[7] = VOCABULARY - 1
    for room in (None, GraphRunner.bucket(20 * count, count, 2 * count)):
        prompts[-1].token_ids[7] = VOCABULARY - 1
        pack(prompts, room, vocabulary=VOCABULARY)
        prompts[-1].token_ids[7] = foreign
        with pytest.raises(IndexError, match=f"token {foreign} has no embedding.* {VOCABULARY} of them"):
            pack(prompts, room, vocabulary=VOCABULARY)


@pytest.mark.parametrize("kind", ["bert", *families.KINDS])
def test_every_way_into_a_network_looks_at_its_tokens(kind: str) -> None:
    """Texts, labels that are read with them, and labels that have a tower."""
    pipeline = fast_pipeline(reference_model("bert")) if kind == "bert" else families.pipeline(kind)
    ours, message = pipeline.model.loaded, "has no embedding.*the tokenizer does not belong to the checkpoint"
    for prompt in ours.probe([(30, 2)]):
        for read in filter(None, (prompt.label_prompt, prompt)):
            before, read.token_ids[3] = read.token_ids[3], ours.config.backbone_config.vocab_size
            for run in (ours.score, ours.embed):
                with pytest.raises(IndexError, match=message):
                    run([prompt])
            read.token_ids[3] = before
        ours.score([prompt]).wait()
    if ours.config.label_backbone_config is not None:
        ids = np.array([1, ours.config.label_backbone_config.vocab_size], dtype=np.int32)
        with pytest.raises(IndexError, match=message):
            ours.label_vectors([EncodedPrompt.of_text(ids, 1)])
