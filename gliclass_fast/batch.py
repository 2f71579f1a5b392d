"""Encoded prompts -> PackedBatch, the whole contract between host and device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

TILE_ROWS = 128
_SEQLEN_BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as token ids. Spans are token ranges within it, known from how it was built.

    Of architectures that do not read labels and text in one sequence this is the text, and the spans of its
    labels are empty.
    """

    token_ids: np.ndarray  # int32 [tokens]
    text_start: int  # the first <<SEP>>, from where the text part runs
    label_spans: np.ndarray  # int32 [labels, 2], from <<LABEL>> to the next one or the first <<SEP>>
    has_example: bool = False  # an <<EXAMPLE>> the configuration knows is present
    tokens_cut: int = 0  # tokens the window left no room for
    text_end: int | None = None  # of the text part; default: the end
    label_vectors: Tensor | None = None  # [labels, C], of bi-encoders
    label_prompt: EncodedPrompt | None = None  # the labels' own sequence, of encoder-decoders

    @classmethod
    def of_text(cls, token_ids: np.ndarray, labels: int, **rest: Any) -> EncodedPrompt:
        """A text that is read without its labels."""
        return cls(token_ids, 0, np.zeros((labels, 2), dtype=np.int32), **rest)

    @property
    def labels(self) -> int:
        return len(self.label_spans)

    @property
    def tokens(self) -> int:
        """Tokens to run, those of the labels' own sequence included."""
        return len(self.token_ids) + (0 if self.label_prompt is None else self.label_prompt.tokens)

    @property
    def cost(self) -> int:
        """What it takes of a batch's token budget: a label that comes as a vector is a quarter of a token."""
        return self.tokens + (0 if self.label_vectors is None else len(self.label_vectors) // 4)


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room for T tokens, N prompts and L labels, and for W and V tiles of attention over them.

    A batch padded to a capacity has the same shapes and the same layout as every other, whatever it holds.
    """

    tokens: int
    prompts: int
    labels: int
    tiles: int
    label_tiles: int

    @classmethod
    def padded(cls, tokens: int, labels: int) -> Capacity:
        """For any batch of at most so many tokens and labels.

        A prompt has a label and a token, so neither prompts nor tiles need a bound of their own.
        """
        return cls(tokens, prompts=labels, labels=labels, tiles=tokens, label_tiles=labels)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What the encoder reads comes first, so that its place does not depend on the labels."""
        return {
            "token_ids": (self.tokens,),
            "positions": (self.tokens,),
            "segments": (self.tokens,),
            "tiles": (1 + self.tiles, 4),
            "cu_seqlens": (self.prompts + 1,),
            "text_spans": (self.prompts, 2),
            "label_spans": (self.labels, 2),
            "label_text": (self.labels,),
            "cu_labels": (self.prompts + 1,),
            "label_tiles": (1 + self.label_tiles, 4),
        }

    @property
    def size(self) -> int:
        """int32 values of a block."""
        return sum(_aligned(prod(shape)) for shape in self.shapes().values())


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """N prompts, T tokens, L labels laid end to end; int32 views of one block on one device.

    Bi-encoders add the vectors of labels, which are always on the model's device, encoder-decoders a second
    batch; no CUDA graph may read either.

    Padding, where there is any, follows the real prompts: cu_seqlens, cu_labels, text and label spans repeat
    the number of real tokens or labels, so that a padded span is empty and may start behind the last row;
    padded labels belong to the first padded prompt.

    Tiles are the work list of attention, the longest sequences first: entry 0 is (number of tiles, TILE_ROWS,
    0, 0), every other (first row, end of rows, first key, end of keys) for at most TILE_ROWS query rows.
    Padded token rows are in tiles without keys.
    """

    token_ids: Tensor  # [T]
    positions: Tensor  # [T]     0-based within each prompt
    segments: Tensor  # [T]      0 before the first <<SEP>>, 1 from it on; 2 throughout a prompt with examples
    tiles: Tensor  # [1+W, 4]    rows and keys are tokens of one prompt
    cu_seqlens: Tensor  # [N+1]
    text_spans: Tensor  # [N, 2] token range of the text part
    label_spans: Tensor  # [L, 2] token range of each label
    label_text: Tensor  # [L]    the prompt each label belongs to
    cu_labels: Tensor  # [N+1]
    label_tiles: Tensor  # [1+V, 4] rows are labels, keys the tokens of the text they are compared with
    max_seqlen: int  # a bucket bound, not a measured value
    prompts: int  # of N, how many are real
    labels: int  # of L, how many are real
    block: Tensor  # all of the above
    capacity: Capacity
    label_vectors: Tensor | None = None  # [L, C], of bi-encoders
    label_prompts: PackedBatch | None = None  # the labels' own sequences, of encoder-decoders

    @classmethod
    def over(cls, block: Tensor, capacity: Capacity, **rest: Any) -> PackedBatch:
        """Views of the first `capacity.size` values of a block; the rest are fields of their own."""
        shapes = capacity.shapes()
        room = [_aligned(prod(shape)) for shape in shapes.values()]
        parts = torch.split(block[: sum(room)], room)
        fields: dict[str, Any] = {
            name: part[: prod(shape)].view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        return cls(**fields, **rest, block=block, capacity=capacity)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on a device, by one copy; asynchronous from pinned memory."""
        block = self.block.to(device, non_blocking=True)
        if block is self.block:
            return self
        return self.on(block, self.prompts, self.labels)

    def on(self, block: Tensor, prompts: int, labels: int) -> PackedBatch:
        """The same batch over a block that starts with a copy of its own; so many prompts and labels of it
        count as real."""
        return PackedBatch.over(
            block,
            self.capacity,
            max_seqlen=self.max_seqlen,
            prompts=prompts,
            labels=labels,
            label_vectors=self.label_vectors,
            label_prompts=None if self.label_prompts is None else self.label_prompts.to(block.device),
        )


def _aligned(count: int) -> int:
    """Every field starts at a multiple of 16 bytes."""
    return -(-count // 4) * 4


def pack(
    prompts: Sequence[EncodedPrompt],
    capacity: Capacity | None = None,
    whole_text: bool = False,
    pinned: bool = False,
) -> PackedBatch:
    """Lays prompts end to end, in order, on the host.

    capacity: pad to it; default: no padding. whole_text: labels are compared with their whole prompt, not
    with its text part. pinned: in page-locked memory, for asynchronous copies to a GPU.
    """
    lengths = np.array([len(prompt.token_ids) for prompt in prompts], dtype=np.int32)
    counts = np.array([prompt.labels for prompt in prompts], dtype=np.int32)
    cu_seqlens, cu_labels = (np.concatenate(([0], np.cumsum(c))).astype(np.int32) for c in (lengths, counts))
    starts, tokens, labels = cu_seqlens[:-1], int(cu_seqlens[-1]), int(cu_labels[-1])
    positions = np.arange(tokens, dtype=np.int32) - np.repeat(starts, lengths)
    text_starts = np.array([prompt.text_start for prompt in prompts], dtype=np.int32)
    text_ends = np.array([prompt.text_end or len(prompt.token_ids) for prompt in prompts], dtype=np.int32)
    segments = (positions >= np.repeat(text_starts, lengths)).astype(np.int32)
    if any(prompt.has_example for prompt in prompts):
        segments[np.repeat([prompt.has_example for prompt in prompts], lengths)] = 2
    label_spans = np.concatenate([prompt.label_spans for prompt in prompts])
    whole = np.stack((starts, cu_seqlens[1:]), axis=1)
    texts = np.stack((starts + text_starts, starts + text_ends), axis=1)
    tiles = work_list(cu_seqlens, whole, spare=0 if capacity is None else capacity.tokens - tokens)
    label_tiles = work_list(cu_labels, whole if whole_text else texts)
    # field -> (values, what follows them in a padded batch)
    fields = {
        "token_ids": (np.concatenate([prompt.token_ids for prompt in prompts]), 0),
        "positions": (positions, 0),
        "segments": (segments, 0),
        "tiles": (tiles, 0),
        "cu_seqlens": (cu_seqlens, tokens),
        "text_spans": (texts, tokens),
        "label_spans": (label_spans + np.repeat(starts, counts)[:, None], tokens),
        "label_text": (np.repeat(np.arange(len(prompts), dtype=np.int32), counts), len(prompts)),
        "cu_labels": (cu_labels, labels),
        "label_tiles": (label_tiles, 0),
    }
    longest = next((b for b in _SEQLEN_BUCKETS if b >= lengths.max()), int(lengths.max()))
    if capacity is None:
        capacity = Capacity(tokens, len(prompts), labels, len(tiles) - 1, len(label_tiles) - 1)
    else:
        longest = capacity.tokens
    block = torch.empty(capacity.size, dtype=torch.int32, device="cpu", pin_memory=pinned)
    vectors = [prompt.label_vectors for prompt in prompts if prompt.label_vectors is not None]
    of_labels = [prompt.label_prompt for prompt in prompts if prompt.label_prompt is not None]
    batch = PackedBatch.over(
        block,
        capacity,
        max_seqlen=longest,
        prompts=len(prompts),
        labels=labels,
        label_vectors=torch.cat(vectors) if vectors else None,
        label_prompts=pack(of_labels, pinned=pinned) if of_labels else None,
    )
    for name, (values, padding) in fields.items():
        target = getattr(batch, name).numpy()
        target[: len(values)], target[len(values) :] = values, padding
    return batch


def consecutive_spans(lengths: Sequence[int], start: int = 0) -> np.ndarray:
    """Spans of such lengths, each beginning where the one before ends: int32 [len(lengths), 2]."""
    bounds = np.array(list(accumulate(lengths, initial=start)), dtype=np.int32)
    return np.stack((bounds[:-1], bounds[1:]), axis=1)


def work_list(cumulative: np.ndarray, keys: np.ndarray, spare: int = 0) -> np.ndarray:
    """Work list over the row ranges `cumulative` [N+1] with the key ranges `keys` [N, 2]: [1+W, 4].

    spare: rows after the last range, which get tiles without keys.
    """
    if spare:
        cumulative = np.append(cumulative, cumulative[-1] + spare)
        keys = np.append(keys, [[0, 0]], axis=0)
    longest_first = np.argsort(keys[:, 0] - keys[:, 1], kind="stable")
    firsts, ends = cumulative[:-1][longest_first], cumulative[1:][longest_first]
    per_range = -(-(ends - firsts) // TILE_ROWS)
    owner = np.repeat(np.arange(len(per_range)), per_range)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(per_range) - per_range, per_range)
    rows = firsts[owner] + within * TILE_ROWS
    tiles = np.empty((1 + len(owner), 4), dtype=np.int32)
    tiles[0] = len(owner), TILE_ROWS, 0, 0
    tiles[1:, 0], tiles[1:, 1] = rows, np.minimum(rows + TILE_ROWS, ends[owner])
    tiles[1:, 2:] = keys[longest_first][owner]
    return tiles


def with_keys(tiles: Tensor, cumulative: Tensor, keys: Tensor) -> Tensor:
    """A work list over the row ranges `cumulative` [N+1], its keys exchanged for `keys` [N, 2]; on its
    device."""
    owner = torch.searchsorted(cumulative[1:].contiguous(), tiles[1:, 0].contiguous(), right=True)
    changed = torch.cat((tiles[1:, :2], keys[owner.clamp(max=len(keys) - 1)]), dim=1)
    return torch.cat((tiles[:1], changed))


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
