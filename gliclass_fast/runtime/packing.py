"""Packing: a plan says which prompts run together, and a batch holds them end to end.

Where a device has no memory for a batch, smaller ones run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from gliclass_fast.batch import Capacity, EncodedPrompt, Layout, PackedBatch
from gliclass_fast.ops import TILE_ROWS
from gliclass_fast.runtime.shortage import is_shortage

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_SEQLEN_BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def pack(
    prompts: Sequence[EncodedPrompt],
    capacity: Capacity | None = None,
    whole_text: bool = False,
    label_offset: int = 0,
    pinned: bool = False,
    adapter_slots: Sequence[int] | None = None,
    vocabulary: int | None = None,
) -> PackedBatch:
    """Lays prompts end to end, in order, on the host.

    capacity: what to pad to; default: no padding. whole_text: labels are compared with their whole prompt,
    not with its text part. label_offset: the place, in a label's span, of the token that stands for it.
    pinned: the batch is in page-locked memory, for asynchronous copies to a GPU. adapter_slots: the slot of
    every prompt's adapter, -1 for none. vocabulary: the rows of the embedding table; None: ids are not
    checked.

    Raises IndexError for a token that has no embedding.
    """
    tokens, count = sum([len(prompt.token_ids) for prompt in prompts]), len(prompts)
    spare = 0 if capacity is None else capacity.tokens - tokens
    fields = (_one if count == 1 else _many)(prompts, spare, whole_text, label_offset)
    labels = len(fields["label_spans"])
    if capacity is None:
        tiles = len(fields["tiles"]) - 1, len(fields["label_tiles"]) - 1
        capacity = Capacity(tokens, count, labels, *tiles, adapted=adapter_slots is not None)
        longest = max([len(prompt.token_ids) for prompt in prompts])
        max_seqlen = next((bound for bound in _SEQLEN_BUCKETS if bound >= longest), longest)
    else:
        max_seqlen = capacity.tokens
    if adapter_slots is not None:
        fields["adapter_slots"] = np.repeat(adapter_slots, [len(prompt.token_ids) for prompt in prompts])

    layout = Layout.of(capacity)
    block = torch.empty(layout.size, dtype=torch.int32, device="cpu", pin_memory=pinned)
    values = block.numpy()
    _fill(values, layout, fields, capacity, tokens)
    if vocabulary is not None:
        check_tokens(values[layout.places["token_ids"][0]], vocabulary)

    vectors = [prompt.label_vectors for prompt in prompts if prompt.label_vectors is not None]
    of_labels = [prompt.label_prompt for prompt in prompts if prompt.label_prompt is not None]
    return PackedBatch(
        block,
        capacity,
        max_seqlen,
        num_prompts=count,
        num_labels=labels,
        lacks_texts=any(prompt.text_end == prompt.text_start for prompt in prompts),
        label_vectors=torch.cat(vectors) if vectors else None,
        label_prompts=pack(of_labels, pinned=pinned, adapter_slots=adapter_slots, vocabulary=vocabulary)
        if of_labels
        else None,
    )


def _fill(
    values: np.ndarray, layout: Layout, fields: dict[str, Any], capacity: Capacity, tokens: int
) -> None:
    """Writes the fields of a batch of so many tokens into its block, and pads them to the capacity."""
    labels = len(fields["label_spans"])
    after = {  # what pads a field; what follows the last tile has no meaning
        **dict.fromkeys(("token_ids", "positions", "segments"), 0),
        **dict.fromkeys(("cu_seqlens", "text_spans", "label_spans"), tokens),
        "cu_labels": labels,
        "adapter_slots": -1,
        "label_text": min(len(fields["text_spans"]), capacity.prompts - 1),
    }
    for name, (place, shape) in layout.places.items():
        rows = values[place] if len(shape) == 1 else values[place].reshape(shape)
        if name == "first_rows":  # the rows of labels follow the padding of the rows of texts
            rows[:] = 0
            rows[capacity.prompts : capacity.prompts + labels] = fields["label_rows"]
        found = fields[name]
        rows[: len(found)] = found
        if name in after:
            rows[len(found) :] = after[name]


def check_tokens(token_ids: np.ndarray, vocabulary: int) -> None:
    """Raises IndexError where an id of these, int32, is no row of an embedding table with so many rows.

    A GPU would read whatever is in memory there, or lose its context.
    """
    # as unsigned numbers, negative ids are larger than all others, so that one look is enough
    if token_ids.view(np.uint32).max(initial=0) >= vocabulary:
        foreign = token_ids[(token_ids < 0) | (token_ids >= vocabulary)][0]
        raise IndexError(
            f"token {foreign} has no embedding, as the model has {vocabulary} of them: the tokenizer does "
            "not belong to the checkpoint"
        )


def _many(
    prompts: Sequence[EncodedPrompt], spare: int, whole_text: bool, label_offset: int
) -> dict[str, Any]:
    """Returns the fields of a batch without padding; `label_rows` holds the first_rows of labels.

    spare: the number of tokens of padding that follow.
    """
    count = len(prompts)
    lengths, counts, text_starts, text_ends, examples = np.array(
        [len(prompt.token_ids) for prompt in prompts]
        + [len(prompt.label_spans) for prompt in prompts]
        + [prompt.text_start for prompt in prompts]
        + [len(prompt.token_ids) if prompt.text_end is None else prompt.text_end for prompt in prompts]
        + [prompt.has_example for prompt in prompts],
        dtype=np.int32,
    ).reshape(5, count)
    cu_seqlens, cu_labels = _running_sum(lengths), _running_sum(counts)
    starts, tokens = cu_seqlens[:-1], int(cu_seqlens[-1])
    whole, texts = _columns(starts, cu_seqlens[1:]), _columns(starts + text_starts, starts + text_ends)
    compared = whole if whole_text else texts
    segments, halves = _columns(2 * examples, 1 + examples), _columns(text_starts, lengths - text_starts)
    label_spans = np.concatenate([prompt.label_spans for prompt in prompts])
    label_spans += starts.repeat(counts)[:, None]
    return {
        "token_ids": np.concatenate([prompt.token_ids for prompt in prompts]),
        "positions": np.arange(tokens, dtype=np.int32) - starts.repeat(lengths),
        "segments": segments.ravel().repeat(halves.ravel()),
        "tiles": work_list(cu_seqlens, whole, spare),
        "cu_seqlens": cu_seqlens,
        "text_spans": texts,
        "label_spans": label_spans,
        "label_text": np.arange(count).repeat(counts),
        "first_rows": compared[:, 0],
        "label_rows": label_spans[:, 0] + label_offset,
        "cu_labels": cu_labels,
        "label_tiles": work_list(cu_labels, compared),
    }


def _one(prompts: Sequence[EncodedPrompt], spare: int, whole_text: bool, label_offset: int) -> dict[str, Any]:
    """Returns what `_many` does for one prompt, in plain Python, as NumPy's calls would take most time."""
    [prompt] = prompts
    spans, tokens, labels = prompt.label_spans, len(prompt.token_ids), len(prompt.label_spans)
    text = (prompt.text_start, tokens if prompt.text_end is None else prompt.text_end)
    compared = (0, tokens) if whole_text else text
    segments = np.full(tokens, 2 if prompt.has_example else 1, dtype=np.int32)
    if not prompt.has_example:
        segments[: prompt.text_start] = 0
    tiles = [*_tiles(0, tokens, (0, tokens)), *_tiles(tokens, tokens + spare, (0, 0))]
    label_tiles = _tiles(0, labels, compared)
    return {
        "token_ids": prompt.token_ids,
        "positions": np.arange(tokens, dtype=np.int32),
        "segments": segments,
        "tiles": [(len(tiles), TILE_ROWS, 0, 0), *tiles],
        "cu_seqlens": (0, tokens),
        "text_spans": (text,),
        "label_spans": spans,
        "label_text": np.zeros(labels, dtype=np.int32),
        "first_rows": (compared[0],),
        "label_rows": spans[:, 0] + label_offset,
        "cu_labels": (0, labels),
        "label_tiles": [(len(label_tiles), TILE_ROWS, 0, 0), *label_tiles],
    }


def _tiles(start: int, end: int, keys: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    return [(row, min(row + TILE_ROWS, end), *keys) for row in range(start, end, TILE_ROWS)]


def _running_sum(counts: np.ndarray) -> np.ndarray:
    """Sums up what comes before each count, and all of them: int32 [N] -> [N + 1]."""
    sums = np.zeros(len(counts) + 1, dtype=np.int32)
    counts.cumsum(out=sums[1:])
    return sums


def _columns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Joins two int32 [N] as the columns of one [N, 2]."""
    columns = np.empty((len(first), 2), dtype=np.int32)
    columns[:, 0], columns[:, 1] = first, second
    return columns


def work_list(cumulative: np.ndarray, keys: np.ndarray, spare: int = 0) -> np.ndarray:
    """Makes the work list over row ranges `cumulative` [N+1] with key ranges `keys` [N, 2]: [1+W, 4].

    spare: the number of padding rows after the last range: their tiles attend to nothing.
    """
    ranges = np.empty((1 + len(keys), 4), dtype=np.int32)
    ranges[:-1, 0], ranges[:-1, 1], ranges[:-1, 2:] = cumulative[:-1], cumulative[1:], keys
    ranges[-1] = cumulative[-1], cumulative[-1] + spare, 0, 0
    ranges = ranges[(ranges[:, 2] - ranges[:, 3]).argsort(kind="stable")]  # the longest first
    per_range = (ranges[:, 1] - ranges[:, 0] + (TILE_ROWS - 1)) // TILE_ROWS
    tiles = ranges.repeat(per_range, axis=0)
    if per_range.max() > 1:  # else every range is one tile
        within = np.arange(len(tiles)) - (per_range.cumsum() - per_range).repeat(per_range)
        tiles[:, 0] += TILE_ROWS * within
        np.minimum(tiles[:, 0] + TILE_ROWS, tiles[:, 1], out=tiles[:, 1])
    return np.concatenate(([[len(tiles), TILE_ROWS, 0, 0]], tiles), dtype=np.int32)


def plan_batches(
    lengths: Sequence[int], batch_tokens: int, owners: Sequence[int] | None = None, most_owners: int = 0
) -> Iterator[list[int]]:
    """Yields groups of indices, longest prompts first, of at most `batch_tokens`; a longer one goes alone.

    owners: the number of every prompt's adapter, 0 for none. Those of a group then stand together, and a
    group has at most `most_owners` others than 0.
    """
    group: list[int] = []
    tokens, met = 0, set[int]()
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        more = met if owners is None else (met | {owners[index]}) - {0}
        if group and (tokens + lengths[index] > batch_tokens or len(more) > most_owners > 0):
            yield _together(group, owners)
            group, tokens, more = [], 0, more & {owners[index] if owners else 0}
        group.append(index)
        tokens, met = tokens + lengths[index], more
    if group:
        yield _together(group, owners)


def _together(group: list[int], owners: Sequence[int] | None) -> list[int]:
    return group if owners is None else sorted(group, key=owners.__getitem__)


def run_batches(
    costs: Sequence[int],
    budget: int,
    run: Callable[[list[int]], Result],
    relieve: Callable[[], None],
    owners: Sequence[int] | None = None,
    most_owners: int = 0,
) -> Iterator[tuple[list[int], Result]]:
    """Calls `run` on groups of prompts, given as indices, as `plan_batches` makes them.

    Where a GPU has no memory for a group, `relieve` gives back what it can and the group runs again; where
    there still is none, and on a CPU, it runs in halves. Raises torch.OutOfMemoryError where a prompt does
    not fit alone.
    """
    waiting = [(group, False) for group in plan_batches(costs, budget, owners, most_owners)][::-1]
    while waiting:
        group, relieved = waiting.pop()
        try:
            result = run(group)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            # the host's memory, which no graph holds
            if isinstance(error, MemoryError) or "CPUAllocator" in str(error):
                relieved = True
            if relieved and len(group) == 1:
                raise torch.OutOfMemoryError(f"out of memory on one text alone: {error}") from error
        else:
            yield group, result
            continue
        if not relieved:
            logger.warning(
                "out of memory on a batch of %d prompts: it runs again without CUDA graphs", len(group)
            )
            relieve()
            waiting.append((group, True))
            continue
        logger.warning("out of memory on a batch of %d prompts: it runs in halves", len(group))
        middle = len(group) // 2
        waiting += (group[middle:], True), (group[:middle], True)
