"""The forward pass of a stock model: padded tensors in, padded tensors out, packed in between.

The scores are those of every text alone. The reference's own differ where its pooling reads padding (`avg`,
`max`, `sum`, `rms`, `abs_*`, `last`), with `squeeze_layers`, and with the hopfield scorer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import SequenceClassifierOutput

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.runtime.adapters import Adapter
from gliclass_fast.runtime.loaded import Embedded, LoadedNetwork
from gliclass_fast.runtime.packing import run_batches
from gliclass_fast.text.errors import WrongValue
from gliclass_fast.text.padded import PaddedInputs

EMPTY_SLOT = -1000.0  # the logit of a slot without a label: its score is 0 (the reference's bi-encoders too)
NOTHING = Embedded(*[np.zeros((1, 0), dtype=np.float32)] * 3)


@dataclass
class GLiClassOutput(SequenceClassifierOutput):  # type: ignore[misc]
    """Holds what a stock model returns, for N texts and K label slots.

    What the reference's training and its recurrent steps give has its names here, for code that looks: the
    engine does neither train nor return steps, so these are None.
    """

    # logits: [N, K], in the model's dtype and on its device; EMPTY_SLOT where a text has no label
    text_embeddings: Tensor | None = None  # [N, C], or [N, S, C] with pooling "pass"
    class_embeddings: Tensor | None = None  # [N, K, C]
    past_key_values: Any = None  # the reference's cache; the engine gives none here, as streams keep theirs
    recurrent_logits: tuple[Tensor, ...] | None = None
    recurrent_losses: Tensor | None = None
    recurrent_entropies: Tensor | None = None
    recurrent_num_steps: Tensor | None = None
    class_mask: Tensor | None = None  # int64 [N, K], 1 for labels
    uncalibrated_logits: Tensor | None = None  # [N, K], for models with a calibrator only
    inverse_temperatures: Tensor | None = None
    calibration_biases: Tensor | None = None


def forward(
    loaded: LoadedNetwork,
    inputs: PaddedInputs,
    label_slots: int,
    embeddings: bool,
    adapters: Sequence[Adapter | None],
) -> GLiClassOutput:
    """Runs padded inputs of any number of texts.

    label_slots: the number K of label slots of the output, where the architecture has a fixed one; further
    labels are left out. embeddings: whether to return text_embeddings and class_embeddings. adapters: those
    of the texts. Raises WrongValue for a text without a label.
    """
    prompts = loaded.prompts_of_padded(inputs, label_slots)
    if without := [place for place, prompt in enumerate(prompts) if prompt.num_labels == 0]:
        name = "input_ids" if inputs.label_rows is None else "class_input_ids"
        raise WrongValue(f"{name}[{without[0]}] holds no label: was its label marker cut off?")

    if not loaded.network.fixed_slots:
        label_slots = max(prompt.num_labels for prompt in prompts)

    prompts = [replace(prompt, adapter=own) for prompt, own in zip(prompts, adapters, strict=True)]
    used = inputs.used_slots() or [np.arange(prompt.num_labels) for prompt in prompts]
    return _padded(loaded, _rows(loaded, prompts, embeddings), used, label_slots, embeddings)


def _rows(loaded: LoadedNetwork, prompts: Sequence[EncodedPrompt], embeddings: bool) -> list[Embedded]:
    """Runs prompts within the token budget, and returns what the network makes of each, in order."""

    def run(group: list[int]) -> Sequence[Embedded]:
        own = [prompts[place] for place in group]
        return loaded.embed(own) if embeddings else _scored(loaded, own)

    rows: list[Embedded] = [NOTHING] * len(prompts)
    costs, budget = [prompt.cost for prompt in prompts], loaded.batch_tokens()
    batches = run_batches(costs, budget, run, loaded.free_graphs, *loaded.owners(prompts))
    for group, found in batches:
        for place, row in zip(group, found, strict=True):
            rows[place] = row
    return rows


def _padded(
    loaded: LoadedNetwork,
    rows: Sequence[Embedded],
    used: Sequence[np.ndarray],
    label_slots: int,
    embeddings: bool,
) -> GLiClassOutput:
    """Returns the padded output of all texts. used: the slots of every text's labels."""

    def on_device(values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(loaded.device, loaded.dtype)

    logits = np.full((len(rows[0].logits), len(rows), label_slots), EMPTY_SLOT, dtype=np.float32)
    labels = np.zeros((len(rows), label_slots, *rows[0].labels.shape[1:]), dtype=np.float32)
    mask = torch.zeros((len(rows), label_slots), dtype=torch.long)
    for text, (row, own) in enumerate(zip(rows, used, strict=True)):
        logits[:, text, own], mask[text, own] = row.logits, 1
        labels[text, own] = row.labels
    texts = None
    if embeddings:
        padded = pad_sequence([torch.from_numpy(row.text) for row in rows], batch_first=True)
        texts = padded.to(loaded.device, loaded.dtype)
    return GLiClassOutput(  # at once, as its entries are in the order of the class only then
        logits=on_device(logits[0]),
        text_embeddings=texts,
        class_embeddings=on_device(labels) if embeddings else None,
        class_mask=mask.to(loaded.device),
        uncalibrated_logits=on_device(logits[1]) if len(logits) > 1 else None,
    )


def _scored(loaded: LoadedNetwork, prompts: Sequence[EncodedPrompt]) -> list[Embedded]:
    """Returns the logits of every prompt, without its vectors."""
    logits = loaded.score(prompts).wait()
    bounds = pairwise(accumulate((prompt.num_labels for prompt in prompts), initial=0))
    return [NOTHING._replace(logits=logits[:, start:end]) for start, end in bounds]
