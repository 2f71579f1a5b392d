"""Encoded prompts -> a PackedBatch on the host, and which prompts make a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from gliclass_fast.batch import TILE_ROWS, Capacity, EncodedPrompt, Layout, PackedBatch

_SEQLEN_BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


def pack(
    prompts: Sequence[EncodedPrompt],
    capacity: Capacity | None = None,
    whole_text: bool = False,
    label_offset: int = 0,
    pinned: bool = False,
) -> PackedBatch:
    """Lays prompts end to end, in order, on the host.

    capacity: pad to it; default: no padding. whole_text: labels are compared with their whole prompt, not
    with its text part. label_offset: where in its span the token is that stands for a label. pinned: in
    page-locked memory, for asynchronous copies to a GPU.
    """
    count = len(prompts)
    lengths, counts, text_starts, text_ends, examples = np.array(
        [len(prompt.token_ids) for prompt in prompts]
        + [len(prompt.label_spans) for prompt in prompts]
        + [prompt.text_start for prompt in prompts]
        + [prompt.text_end or len(prompt.token_ids) for prompt in prompts]
        + [prompt.has_example for prompt in prompts],
        dtype=np.int32,
    ).reshape(5, count)
    cu_seqlens, cu_labels = _running_sum(lengths), _running_sum(counts)
    starts, tokens, labels = cu_seqlens[:-1], int(cu_seqlens[-1]), int(cu_labels[-1])
    whole = _columns(starts, cu_seqlens[1:])
    texts = _columns(starts + text_starts, starts + text_ends)
    compared = whole if whole_text else texts
    tiles = work_list(cu_seqlens, whole, spare=0 if capacity is None else capacity.tokens - tokens)
    label_tiles = work_list(cu_labels, compared)
    if capacity is None:
        capacity = Capacity(tokens, count, labels, len(tiles) - 1, len(label_tiles) - 1)
        longest = int(lengths.max())
        max_seqlen = next((bound for bound in _SEQLEN_BUCKETS if bound >= longest), longest)
    else:
        max_seqlen = capacity.tokens

    layout = Layout.of(capacity)
    block = torch.empty(layout.size, dtype=torch.int32, device="cpu", pin_memory=pinned)
    values = block.numpy()
    at = {name: values[place].reshape(shape) for name, (place, shape) in layout.places.items()}
    first_label = capacity.prompts  # in first_rows
    np.concatenate([prompt.token_ids for prompt in prompts], out=at["token_ids"][:tokens])
    np.subtract(np.arange(tokens, dtype=np.int32), starts.repeat(lengths), out=at["positions"][:tokens])
    segments, halves = _columns(2 * examples, 1 + examples), _columns(text_starts, lengths - text_starts)
    at["segments"][:tokens] = segments.ravel().repeat(halves.ravel())
    at["tiles"][: len(tiles)], at["label_tiles"][: len(label_tiles)] = tiles, label_tiles
    at["cu_seqlens"][: count + 1], at["cu_labels"][: count + 1] = cu_seqlens, cu_labels
    at["text_spans"][:count] = texts
    spans = at["label_spans"][:labels]
    np.concatenate([prompt.label_spans for prompt in prompts], out=spans)
    spans += starts.repeat(counts)[:, None]
    at["label_text"][:labels] = np.arange(count).repeat(counts)
    at["first_rows"][:count] = compared[:, 0]
    at["first_rows"][first_label : first_label + labels] = spans[:, 0] + label_offset

    at["token_ids"][tokens:] = at["positions"][tokens:] = at["segments"][tokens:] = 0
    at["cu_seqlens"][count + 1 :], at["cu_labels"][count + 1 :] = tokens, labels
    at["text_spans"][count:], at["label_spans"][labels:] = tokens, tokens
    at["label_text"][labels:] = min(count, capacity.prompts - 1)
    at["first_rows"][count:first_label] = at["first_rows"][first_label + labels :] = 0

    vectors = [prompt.label_vectors for prompt in prompts if prompt.label_vectors is not None]
    of_labels = [prompt.label_prompt for prompt in prompts if prompt.label_prompt is not None]
    return PackedBatch(
        block,
        capacity,
        max_seqlen,
        prompts=count,
        labels=labels,
        label_vectors=torch.cat(vectors) if vectors else None,
        label_prompts=pack(of_labels, pinned=pinned) if of_labels else None,
    )


def _running_sum(counts: np.ndarray) -> np.ndarray:
    """What comes before each, and the total: int32 [N] -> [N + 1]."""
    sums = np.zeros(len(counts) + 1, dtype=np.int32)
    counts.cumsum(out=sums[1:])
    return sums


def _columns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int32 [N] twice -> [N, 2]."""
    columns = np.empty((len(first), 2), dtype=np.int32)
    columns[:, 0], columns[:, 1] = first, second
    return columns


def work_list(cumulative: np.ndarray, keys: np.ndarray, spare: int = 0) -> np.ndarray:
    """Work list over the row ranges `cumulative` [N+1] with the key ranges `keys` [N, 2]: [1+W, 4].

    spare: rows after the last range, which get tiles without keys.
    """
    ranges = np.empty((1 + len(keys), 4), dtype=np.int32)
    ranges[:-1, 0], ranges[:-1, 1], ranges[:-1, 2:] = cumulative[:-1], cumulative[1:], keys
    ranges[-1] = cumulative[-1], cumulative[-1] + spare, 0, 0
    ranges = ranges[(ranges[:, 2] - ranges[:, 3]).argsort(kind="stable")]  # the longest first
    per_range = (ranges[:, 1] - ranges[:, 0] + (TILE_ROWS - 1)) // TILE_ROWS
    tiles = ranges.repeat(per_range, axis=0)
    if per_range.max() > 1:  # else every range is a tile
        within = np.arange(len(tiles)) - (per_range.cumsum() - per_range).repeat(per_range)
        tiles[:, 0] += TILE_ROWS * within
        np.minimum(tiles[:, 0] + TILE_ROWS, tiles[:, 1], out=tiles[:, 1])
    return np.concatenate(([[len(tiles), TILE_ROWS, 0, 0]], tiles), dtype=np.int32)


def plan_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of prompts, longest first, in groups of at most `batch_tokens`; a longer one goes alone."""
    group: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if group and tokens + lengths[index] > batch_tokens:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += lengths[index]
    if group:
        yield group
