"""Encoded prompts -> PackedBatch, the whole contract between host and device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SEQLEN_BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt as token ids. Spans are token ranges within it, known from how it was built."""

    token_ids: np.ndarray  # int32 [tokens]
    text_start: int  # the first <<SEP>>; the text part runs from here to the end
    label_starts: np.ndarray  # int32 [labels], the <<LABEL>> tokens
    label_ends: np.ndarray  # int32 [labels], the next <<LABEL>> or the first <<SEP>>
    has_example: bool  # an <<EXAMPLE>> the configuration knows is present
    tokens_cut: int  # tokens the window left no room for


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """N prompts, T tokens, L labels laid end to end; all tensors int32 on one device."""

    token_ids: Tensor  # [T]
    positions: Tensor  # [T]     0-based within each prompt
    segments: Tensor  # [T]      0 before the first <<SEP>>, 1 from it on; 2 throughout a prompt with examples
    cu_seqlens: Tensor  # [N+1]
    text_spans: Tensor  # [N, 2] token range of the text part
    label_spans: Tensor  # [L, 2] token range of each label
    label_text: Tensor  # [L]    the prompt each label belongs to
    cu_labels: Tensor  # [N+1]
    max_seqlen: int  # a bucket bound, not a measured value


def pack(prompts: Sequence[EncodedPrompt], device: torch.device | str = "cpu") -> PackedBatch:
    """Lays prompts end to end, in order, and moves them to `device`."""
    lengths = np.array([len(prompt.token_ids) for prompt in prompts], dtype=np.int32)
    counts = np.array([len(prompt.label_starts) for prompt in prompts], dtype=np.int32)
    cu_seqlens, cu_labels = (np.concatenate(([0], np.cumsum(c))).astype(np.int32) for c in (lengths, counts))
    starts = cu_seqlens[:-1]
    positions = np.arange(cu_seqlens[-1], dtype=np.int32) - np.repeat(starts, lengths)
    text_starts = np.array([prompt.text_start for prompt in prompts], dtype=np.int32)
    segments = (positions >= np.repeat(text_starts, lengths)).astype(np.int32)
    segments[np.repeat([prompt.has_example for prompt in prompts], lengths)] = 2
    offsets = np.repeat(starts, counts)
    label_starts = np.concatenate([prompt.label_starts for prompt in prompts]) + offsets
    label_ends = np.concatenate([prompt.label_ends for prompt in prompts]) + offsets
    arrays = {
        "token_ids": np.concatenate([prompt.token_ids for prompt in prompts]),
        "positions": positions,
        "segments": segments,
        "cu_seqlens": cu_seqlens,
        "text_spans": np.stack((starts + text_starts, cu_seqlens[1:]), axis=1),
        "label_spans": np.stack((label_starts, label_ends), axis=1),
        "label_text": np.repeat(np.arange(len(prompts), dtype=np.int32), counts),
        "cu_labels": cu_labels,
    }
    tensors = {
        name: torch.from_numpy(array.astype(np.int32, copy=False)).to(device)
        for name, array in arrays.items()
    }
    longest = int(lengths.max())
    return PackedBatch(**tensors, max_seqlen=next((b for b in _SEQLEN_BUCKETS if b >= longest), longest))


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
