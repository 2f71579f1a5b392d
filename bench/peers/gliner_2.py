"""GLiNER2 on the same backbone, with random weights: it is another model, so its scores are its own."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from gliclass_fast.bench.cases import Case, texts
from gliclass_fast.bench.contenders import Contender, Run, Setting

NAME = "GLiNER2 (another model)"
PACKAGES = ("gliner2", "pydantic")
SAME_MODEL = False


class _Gliner2:
    def __init__(self, setting: Setting) -> None:
        from gliner2 import GLiNER2
        from gliner2.configuration import ExtractorConfig

        config = setting.model.model.encoder_model.config
        # Its tokenizer gets markers of its own.
        model: Any = GLiNER2(
            ExtractorConfig(), encoder_config=config, tokenizer=copy.deepcopy(setting.tokenizer)
        )
        self.model = model.to(setting.device, setting.dtype).eval()
        self.tokenizer = setting.tokenizer

    def tokens(self, case: Case) -> int:
        return sum(case.lengths)

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        raise NotImplementedError("the scores of another model")

    def forward(self, case: Case) -> Run | None:
        return None

    def pipeline(self, case: Case) -> Run | None:
        strings, tasks = texts(case, self.tokenizer), {"labels": list(case.labels)}
        return lambda: self.model.batch_classify_text(strings, tasks, batch_size=len(strings))


def build(setting: Setting) -> Contender:
    return _Gliner2(setting)
