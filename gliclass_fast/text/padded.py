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


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Holds rows of token ids on the host, with what is padding among them."""

    token_ids: np.ndarray  # int32 [..., S]
    kept: np.ndarray  # bool [..., S], False for padding

    def unpadded(self, *place: int) -> np.ndarray:
        """Returns the token ids of one row without padding, int32."""
        row: np.ndarray = self.token_ids[place][self.kept[place]]
        return row


@dataclass(frozen=True, slots=True)
class PaddedInputs:
    """Holds what a stock model is called with, as `check_inputs` checks it; N texts, S tokens, K label slots.

    Every text has a token, and so has every label, and every text a label slot in `labels_mask`.
    """

    text_rows: PaddedRows  # [N, S]
    # [N, K, S] for bi-encoders, [N, S] for encoder-decoders, None where the labels are in the texts' rows
    label_rows: PaddedRows | None = None
    labels_mask: np.ndarray | None = None  # bool [N, K], for bi-encoders only

    def texts(self) -> list[np.ndarray]:
        """Returns the token ids of every text without padding, int32."""
        return [self.text_rows.unpadded(text) for text in range(len(self.text_rows.kept))]

    def label_prompts(self) -> list[np.ndarray]:
        """Returns the token ids of every text's labels where they are one sequence, int32."""
        assert self.label_rows is not None
        return [self.label_rows.unpadded(text) for text in range(len(self.label_rows.kept))]

    def used_slots(self) -> list[np.ndarray] | None:
        """Returns the label slots that every text uses; None where these are the first ones."""
        return None if self.labels_mask is None else [np.flatnonzero(row) for row in self.labels_mask]

    def labels(self) -> tuple[list[np.ndarray], list[list[int]]]:
        """Returns the different labels that are sequences of their own, and the places of every text's."""
        assert self.label_rows is not None and self.labels_mask is not None
        places: dict[bytes, int] = {}
        found: list[np.ndarray] = []
        of_text: list[list[int]] = [[] for _ in self.labels_mask]
        for text, slot in np.argwhere(self.labels_mask).tolist():
            ids = self.label_rows.unpadded(text, slot)
            key = ids.tobytes()
            if places.setdefault(key, len(found)) == len(found):
                found.append(ids)
            of_text[text].append(places[key])
        return found, of_text


def marked_prompt(ids: np.ndarray, config: ModelConfig, most: int) -> EncodedPrompt:
    """Returns the prompt of ids [tokens] that hold label markers, of which the first `most` count."""
    starts = np.flatnonzero(ids == config.class_token_index)
    text_starts = np.flatnonzero(ids == config.text_token_index)
    text_start = int(text_starts[0]) if len(text_starts) else 0
    ends = np.append(starts, len(ids))[1:]
    if len(text_starts) and not config.last_label_has_the_rest:
        ends = np.maximum(starts, np.minimum(ends, text_start))  # nothing of the text is a label's
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


def pad_prompts(prompts: Sequence[EncodedPrompt], pad_id: int) -> dict[str, Tensor]:
    """Returns prompts as a stock model takes them; labels that are one sequence are `class_input_ids`."""
    inputs = padded([prompt.token_ids for prompt in prompts], pad_id)
    apart = [prompt.label_prompt for prompt in prompts if not prompt.holds_label_prompt]
    of_labels = [labels.token_ids for labels in apart if labels is not None]
    if of_labels:
        inputs |= {f"class_{name}": each for name, each in padded(of_labels, pad_id).items()}
    return inputs


def padded_labels(labels: Sequence[Sequence[str]], tokenizer: Any, window: int | None) -> dict[str, Tensor]:
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
