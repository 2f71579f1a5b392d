"""fast-gliner: a Rust front end runs the exported reference model, one text a call, on its own threads."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gliclass_fast.bench.cases import CPU_CASES, Case, texts
from gliclass_fast.bench.contenders import Contender, Run, Setting, Stock
from gliclass_fast.bench.exported import export

NAME = "fast-gliner (one text a call)"
PACKAGES = ("gliclass", "onnx", "fast_gliner")
SAME_MODEL = True


def unsuitable(setting: Setting) -> str | None:
    return None if setting.device == "cpu" else "its wheels are for CPUs"


class _FastGliner(Stock):
    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, setting.model)
        self.labels: tuple[str, ...] = ()
        self._load(CPU_CASES[0].labels)

    def _load(self, labels: tuple[str, ...]) -> None:
        """Loads a model anew for another number of labels, because the graph holds this number."""
        if len(labels) == len(self.labels):
            return
        from fast_gliner import FastGLiClass

        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "onnx").mkdir()
            self.tokenizer.save_pretrained(folder)
            config = Path(folder) / "config.json"
            config.write_text(json.dumps(self.pipe.pipe.model.config.to_dict()), encoding="utf-8")
            inputs = self.inputs(["a text"], labels)
            export(self.pipe.pipe.model, inputs, Path(folder) / "onnx" / "model.onnx", len(labels))
            self.model: Any = FastGLiClass.from_pretrained(folder)
        self.labels = labels

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Undoes the sigmoid of its scores."""
        self._load(case.labels)
        found = []
        for text in texts(case, self.tokenizer)[:count]:
            scores = dict(self.model.classify(text, list(case.labels)))
            score = np.array([scores[label] for label in case.labels])
            found.append(np.log(score / (1 - score)))
        return found

    def forward(self, case: Case) -> Run | None:
        return None

    def pipeline(self, case: Case) -> Run | None:
        self._load(case.labels)
        strings, labels = texts(case, self.tokenizer), list(case.labels)
        return lambda: [self.model.classify(text, labels) for text in strings]


def build(setting: Setting) -> Contender:
    return _FastGliner(setting)
