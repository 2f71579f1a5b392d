"""GliZNet on the same backbone: plain torch runs it over padded batches, as the author's pipeline does.

It is another model, with random weights of its own, so its scores are not compared.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from gliclass_fast.bench.cases import Case, texts
from gliclass_fast.bench.contenders import WINDOW, Contender, Run, Setting
from gliclass_fast.bench.gliznet_reference import GliZNet
from gliclass_fast.models.gliznet.network import Architecture
from gliclass_fast.text.gliznet_tokenizer import GliZNETTokenizer

NAME = "GliZNet (another model)"
PACKAGES = ()
SAME_MODEL = False


def unsuitable(setting: Setting) -> str | None:
    known = Architecture.backbones()
    return None if setting.model_type in known else f"runs {', '.join(known)}"


class _GliZNet:
    def __init__(self, setting: Setting) -> None:
        # It is a copy, because it gets one token more.
        self.tokenizer = GliZNETTokenizer(copy.deepcopy(setting.tokenizer))
        self.tokenizer.tokenizer.model_max_length = WINDOW
        config = copy.deepcopy(setting.model.model.encoder_model.config)
        config.vocab_size = max(config.vocab_size, len(self.tokenizer))
        model = GliZNet(config, self.tokenizer.lab_token_id)
        self.model, self.device = model.to(setting.device, setting.dtype).eval(), setting.device
        self.texts_tokenizer = setting.tokenizer

    def tokens(self, case: Case) -> int:
        return len(case.lengths) * max(case.lengths)

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        raise NotImplementedError("the scores of another model")

    def forward(self, case: Case) -> Run:
        inputs = self._inputs(texts(case, self.texts_tokenizer), case.labels)
        return torch.no_grad()(lambda: self.model(**inputs))

    def pipeline(self, case: Case) -> Run:
        strings = texts(case, self.texts_tokenizer)

        @torch.no_grad()
        def run() -> Any:
            logits = self.model(**self._inputs(strings, case.labels))
            return [row.float().sigmoid().tolist() for row in logits]

        return run

    def _inputs(self, strings: list[str], labels: tuple[str, ...]) -> dict[str, Any]:
        batch = self.tokenizer([(text, labels) for text in strings])
        return {name: values.to(self.device) for name, values in batch.items()}


def build(setting: Setting) -> Contender:
    return _GliZNet(setting)
