"""EncodedPrompt and PackedBatch: these two are the whole contract between tokenizers, host and device.

Letters name the sizes in shapes: N prompts, T tokens and L labels of a batch, C values of a hidden state,
H attention heads and D values of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.ops import TILE_ROWS, AdapterRows, Sequences

# Label vectors that take one token of a batch's budget: they are scored and not encoded, but need a bound.
# Any number near this one works.
VECTORS_PER_TOKEN = 4
_NOWHERE = np.int32(0)  # a bound of the span of a label that is not in the text's prompt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Holds one prompt as token ids. Spans are token ranges within it, known from how it was built.

    Where an architecture does not read labels and text in one sequence, this is the text, and the spans of
    its labels are empty.
    """

    token_ids: np.ndarray  # int32 [tokens]
    text_start: int  # where the text part starts: the first <<SEP>>, or 0 where there is none
    # int32 [labels, 2], from each <<LABEL>> to the next or the first <<SEP>>; the last may have all the rest
    label_spans: np.ndarray
    has_example: bool = False  # the prompt has an <<EXAMPLE>> that the configuration knows
    tokens_cut: int = 0  # tokens that the window left no room for
    # where the text part ends; None: where the prompt ends. In a label_prompt that a prompt holds, this is
    # behind the token that stands for the text, and 0 where there is none
    text_end: int | None = None
    label_vectors: Tensor | None = None  # [labels, C], for bi-encoders only
    # the labels as a sequence: for encoder-decoders one of its own, for decoder-kv the end of this one
    label_prompt: EncodedPrompt | None = None
    holds_label_prompt: bool = False  # token_ids ends with the tokens of label_prompt
    adapter: Any = None  # an `Adapter` of runtime/adapters.py, whose update the prompt is read with

    @classmethod
    def of_text(cls, token_ids: np.ndarray, num_labels: int, **rest: Any) -> EncodedPrompt:
        """Makes the prompt of a text that is read without its labels."""
        nowhere = np.broadcast_to(_NOWHERE, (num_labels, 2))  # takes no memory per label
        return cls(token_ids, 0, nowhere, **rest)

    @property
    def num_labels(self) -> int:
        return len(self.label_spans)

    @property
    def tokens(self) -> int:
        """Counts the tokens to run, each once, those of labels in a sequence of their own included."""
        if self.label_prompt is None or self.holds_label_prompt:
            return len(self.token_ids)
        return len(self.token_ids) + self.label_prompt.tokens

    @property
    def cost(self) -> int:
        """Counts what the prompt takes of a batch's token budget.

        A row of label_prompt takes one, also where its token is one of token_ids: layers of the scorer then
        run over it once more. VECTORS_PER_TOKEN labels given as vectors take one.
        """
        of_labels = 0 if self.label_prompt is None else self.label_prompt.tokens
        vectors = 0 if self.label_vectors is None else len(self.label_vectors)
        return len(self.token_ids) + of_labels + vectors // VECTORS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Capacity:
    """Has room for T tokens, N prompts and L labels, and for W and V tiles of attention over them.

    All batches that are padded to one capacity have the same shapes and the same layout, whatever they hold.
    """

    tokens: int
    prompts: int
    labels: int
    tiles: int
    label_tiles: int
    adapted: bool = False  # whether there is room for the adapter of every token

    @classmethod
    def padded(cls, tokens: int, prompts: int, labels: int, tiles: int) -> Capacity:
        """Makes room for any batch of at most so many of each; label tiles are full but one per prompt."""
        return cls(tokens, prompts, labels, tiles, label_tiles=prompts + labels // TILE_ROWS)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every field.

        The backbone's fields come first, so that their offsets do not depend on the number of prompts or
        labels, and one graph of the backbone serves all.
        """
        return {
            "token_ids": (self.tokens,),
            "positions": (self.tokens,),
            "segments": (self.tokens,),
            "tiles": (1 + self.tiles, 4),
            **({"adapter_slots": (self.tokens,)} if self.adapted else {}),
            "cu_seqlens": (self.prompts + 1,),
            "text_spans": (self.prompts, 2),
            "label_spans": (self.labels, 2),
            "label_text": (self.labels,),
            "first_rows": (self.prompts + self.labels,),
            "cu_labels": (self.prompts + 1,),
            "label_tiles": (1 + self.label_tiles, 4),
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """Says where the fields of a batch are in its block."""

    places: dict[str, tuple[slice, tuple[int, ...]]]  # by field: where it is, and its shape
    size: int  # int32 values of the block

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, capacity: Capacity) -> Layout:
        """Lays out the fields of a capacity; every field starts at a multiple of 16 bytes."""
        places, start = {}, 0
        for name, shape in capacity.shapes().items():
            places[name] = slice(start, start + prod(shape)), shape
            start += -(-prod(shape) // 4) * 4
        return cls(places, start)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PackedBatch:
    """Holds N prompts with T tokens and L labels, laid end to end in one block of int32 on one device.

    The fields are views of the block, and each view is made when it is first read: the replay of a CUDA graph
    reads none. Bi-encoders add the vectors of labels, which are always on the model's device, and
    encoder-decoders and decoder-kv add a second batch; no CUDA graph may read either.

    Padding, where there is any, follows the real prompts. Padded entries of cu_seqlens, cu_labels, text_spans
    and label_spans repeat the number of real tokens or labels, so that a padded span is empty and may start
    behind the last row. Padded labels belong to the first padded prompt, or to the last prompt where none is
    padded. Padded first_rows are 0.

    Tiles are the work list of attention, the longest sequences first. Entry 0 is (number of tiles, TILE_ROWS,
    0, 0). Every other entry is (first row, end of rows, first key, end of keys) for at most TILE_ROWS query
    rows. Padded token rows are in tiles without keys. What follows the last tile has no meaning.
    """

    block: Tensor  # all fields
    capacity: Capacity
    max_seqlen: int  # no prompt is longer; the bound of a bucket, not a measured value
    num_prompts: int  # how many of the N are real
    num_labels: int  # how many of the L are real
    lacks_texts: bool = False  # whether the text part of a prompt is empty
    label_vectors: Tensor | None = None  # [L, C], for bi-encoders only
    label_prompts: PackedBatch | None = None  # the label_prompt of every prompt that has one

    token_ids: Tensor = field(init=False)  # [T]
    positions: Tensor = field(init=False)  # [T]     counted from 0 within each prompt
    # [T]: 0 before the first <<SEP>>, 1 from it on; 2 everywhere in a prompt with examples
    segments: Tensor = field(init=False)
    tiles: Tensor = field(init=False)  # [1+W, 4]    rows and keys are tokens of one prompt
    adapter_slots: Tensor = field(init=False)  # [T]  only where the capacity has room for them
    adapter_rows: AdapterRows | None = field(init=False)  # of [T]: the adapters of tokens, None without any
    sequences: Sequences = field(init=False)  # their rows and keys are the tokens of one prompt
    cu_seqlens: Tensor = field(init=False)  # [N+1]
    text_spans: Tensor = field(init=False)  # [N, 2] token range of the text part
    label_spans: Tensor = field(init=False)  # [L, 2] token range of each label
    label_text: Tensor = field(init=False)  # [L]    the prompt each label belongs to
    first_rows: Tensor = field(init=False)  # [N+L]  the token that stands for each text, then for each label
    cu_labels: Tensor = field(init=False)  # [N+1]
    # [1+V, 4]: rows are labels, keys are the tokens of the text that they are compared with
    label_tiles: Tensor = field(init=False)

    def __getattr__(self, name: str) -> Any:
        """Makes the view of a field that was not read before."""
        places = Layout.of(self.capacity).places
        made: Any
        if name == "adapter_rows":
            made = AdapterRows(self.adapter_slots) if self.capacity.adapted else None
        elif name == "sequences":
            made = Sequences(self.cu_seqlens, None, self.tiles, self.max_seqlen)
        elif name in places:
            place, shape = places[name]
            made = self.block[place].view(shape)
        else:
            raise AttributeError(f"a PackedBatch has no {name!r}")
        object.__setattr__(self, name, made)
        return made

    def label_sequences(self, spans: Tensor) -> Sequences:
        """Returns the sequences whose rows are the labels of a prompt, and whose keys are `spans`, [N, 2]."""
        return Sequences(self.cu_labels, spans, self.label_tiles, self.capacity.labels)

    def to(self, device: torch.device | str) -> PackedBatch:
        """Returns the same batch on a device, by one copy, which is asynchronous from pinned memory."""
        block = self.block.to(device, non_blocking=True)
        return self if block is self.block else self.on(block)

    def on(self, block: Tensor) -> PackedBatch:
        """Returns the same batch over another block, which starts with a copy of this batch's block."""
        return PackedBatch(
            block,
            self.capacity,
            self.max_seqlen,
            self.num_prompts,
            self.num_labels,
            self.lacks_texts,
            self.label_vectors,
            None if self.label_prompts is None else self.label_prompts.to(block.device),
        )


def consecutive_spans(lengths: Sequence[int], start: int = 0) -> np.ndarray:
    """Returns spans of these lengths, int32 [len(lengths), 2]; each starts where the one before ends."""
    bounds = np.array(list(accumulate(lengths, initial=start)), dtype=np.int32)
    return np.stack((bounds[:-1], bounds[1:]), axis=1)
