"""Padded tensors, as stock tokenizers give them and stock models take them: prompts come out of them, and
go into them.

The places of labels and of the text are found by their marker tokens, as the reference finds them, so that a
text that holds a marker counts as one here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.config import ModelConfig
from gliclass_fast.text.errors import WrongType, WrongValue


@dataclass(frozen=True, slots=True)
class PaddedInputs:
    """Holds what a stock model is called with; N texts, S tokens, K label slots."""

    input_ids: Tensor  # [N, S]
    attention_mask: Tensor | None = None  # [N, S], default: no padding
    class_input_ids: Tensor | None = None  # [N, K, S] for bi-encoders, [N, S] for encoder-decoders
    class_attention_mask: Tensor | None = None  # as class_input_ids
    labels_mask: Tensor | None = None  # [N, K], for bi-encoders only

    def texts(self) -> list[np.ndarray]:
        """Returns the token ids of every text without padding, int32."""
        return unpadded(self.input_ids, self.attention_mask)

    def label_prompts(self) -> list[np.ndarray]:
        """Returns the token ids of every text's labels where they are one sequence; else raises WrongType."""
        if self.class_input_ids is None:
            raise WrongType("this architecture is called with class_input_ids and class_attention_mask")
        return unpadded(self.class_input_ids, self.class_attention_mask)

    def slots(self) -> list[np.ndarray] | None:
        """Returns the label slots that every text uses; None where these are the first ones."""
        if self.labels_mask is None:
            return None
        return [np.flatnonzero(row) for row in self.labels_mask.cpu().numpy()]

    def labels(self) -> tuple[list[np.ndarray], list[list[int]]]:
        """Returns the different labels that are sequences of their own, and the places of every text's."""
        if self.class_input_ids is None:
            raise WrongType("this architecture is called with class_input_ids and class_attention_mask")
        count, slots = self.class_input_ids.shape[:2]
        used = self.slots() or [np.arange(slots)] * count
        mask = self.class_attention_mask
        places: dict[bytes, int] = {}
        found: list[np.ndarray] = []
        of_text: list[list[int]] = []
        for text in range(count):
            rows = unpadded(self.class_input_ids[text], None if mask is None else mask[text])
            of_text.append([])
            for slot in used[text]:
                key = rows[slot].tobytes()
                if places.setdefault(key, len(found)) == len(found):
                    found.append(rows[slot])
                of_text[-1].append(places[key])
        return found, of_text


def unpadded(token_ids: Tensor, mask: Tensor | None) -> list[np.ndarray]:
    """Returns the rows of [N, S] ids where the mask is set, int32.

    Raises WrongValue for an empty row, and where the mask has another shape than the ids.
    """
    if mask is not None and mask.shape != token_ids.shape:
        raise WrongValue(f"attention_mask {list(mask.shape)} does not fit input_ids {list(token_ids.shape)}")
    ids = token_ids.cpu().numpy().astype(np.int32)
    kept = np.ones(ids.shape, dtype=bool) if mask is None else mask.cpu().numpy().astype(bool)
    rows = [row[own] for row, own in zip(ids, kept, strict=True)]
    if any(len(row) == 0 for row in rows):
        raise WrongValue("attention_mask leaves a text no token")
    return rows


def marked_prompt(ids: np.ndarray, config: ModelConfig, most: int) -> EncodedPrompt:
    """Returns the prompt of ids [tokens] that hold label markers, of which the first `most` count."""
    starts = np.flatnonzero(ids == config.class_token_index)
    text_starts = np.flatnonzero(ids == config.text_token_index)
    text_start = int(text_starts[0]) if len(text_starts) else 0
    ends = np.append(starts, len(ids))[1:]
    if len(text_starts):  # a label in front of the text ends there at the latest
        ends = np.where(starts < text_start, np.minimum(ends, text_start), ends)
    return EncodedPrompt(
        token_ids=ids,
        text_start=text_start,
        label_spans=np.stack((starts, ends), axis=1).astype(np.int32)[:most],
        has_example=bool((ids == config.example_token_index).any()),
    )


def padded(rows: Sequence[np.ndarray], pad_id: int) -> dict[str, Tensor]:
    """Returns rows of ids as `input_ids` and `attention_mask`, int64 [N, S], padded on the right."""
    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.from_numpy(row)
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def padded_prompts(prompts: Sequence[EncodedPrompt], pad_id: int) -> dict[str, Tensor]:
    """Returns prompts as a stock model takes them; labels that are one sequence are `class_input_ids`."""
    inputs = padded([prompt.token_ids for prompt in prompts], pad_id)
    # an architecture may read the labels' sequence as a part of the text's, whose spans then are not empty
    apart = [prompt for prompt in prompts if not prompt.label_spans.any()]
    of_labels = [prompt.label_prompt.token_ids for prompt in apart if prompt.label_prompt is not None]
    if of_labels:
        inputs |= {f"class_{name}": each for name, each in padded(of_labels, pad_id).items()}
    return inputs


def padded_labels(labels: Sequence[Sequence[str]], tokenizer: Any, window: int) -> dict[str, Tensor]:
    """Returns labels that are sequences of their own as `class_input_ids` and `class_attention_mask`.

    These are int64 [N, K, S], and `labels_mask` is [N, K], where a text has fewer than K labels: 0 there.
    """
    slots = max(map(len, labels))
    mask = torch.tensor([[1] * len(own) + [0] * (slots - len(own)) for own in labels])
    filled = [label for own in labels for label in (*own, *[""] * (slots - len(own)))]
    tokens = tokenizer(filled, truncation=True, max_length=window, padding="longest", return_tensors="pt")
    shape = (len(labels), slots, -1)
    return {
        "class_input_ids": tokens["input_ids"].view(shape),
        "class_attention_mask": tokens["attention_mask"].view(shape),
        "labels_mask": mask,
    }
