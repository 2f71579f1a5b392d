"""A cross-encoder for natural language inference on the same backbone: it makes one pass per text and label.

This is what zero-shot classification was before GLiClass. Its scores are its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from gliclass_fast.bench.cases import Case, texts
from gliclass_fast.bench.contenders import WINDOW, Contender, Run, Setting

NAME = "cross-encoder (NLI)"
PACKAGES = ()
SAME_MODEL = False
HYPOTHESIS = "This example is about {}."
HYPOTHESIS_TOKENS = 8  # They include the tokens between and around.
PAIRS_PER_BATCH = 64


class _CrossEncoder:
    def __init__(self, setting: Setting) -> None:
        config = setting.model.model.encoder_model.config
        config = type(config).from_dict({**config.to_dict(), "num_labels": 3})
        model: Any = AutoModelForSequenceClassification.from_config(config)
        self.model = model.to(setting.device, setting.dtype).eval()
        self.tokenizer, self.device = setting.tokenizer, setting.device

    def inputs(self, case: Case) -> list[dict[str, Any]]:
        """Returns batches of (text, hypothesis) pairs; texts are as long as in the case."""
        pairs = [
            (text, HYPOTHESIS.format(label)) for text in texts(case, self.tokenizer) for label in case.labels
        ]
        return [
            self.tokenizer(
                *map(list, zip(*pairs[start : start + PAIRS_PER_BATCH], strict=True)),
                truncation="only_first", max_length=WINDOW, padding=True, return_tensors="pt",
            ).to(self.device)
            for start in range(0, len(pairs), PAIRS_PER_BATCH)
        ]  # fmt: skip

    def tokens(self, case: Case) -> int:
        """Counts a text and a hypothesis per label; the labels are not part of the text."""
        block = 2 * len(case.labels)
        return sum(length - block + HYPOTHESIS_TOKENS for length in case.lengths) * len(case.labels)

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        raise NotImplementedError("the scores of another model")

    def forward(self, case: Case) -> Run:
        batches = self.inputs(case)

        @torch.no_grad()
        def run() -> Any:
            return [self.model(**batch).logits for batch in batches]

        return run

    def pipeline(self, case: Case) -> Run | None:
        return None


def build(setting: Setting) -> Contender:
    return _CrossEncoder(setting)
