"""The reference model as an ONNX graph, which other engines run."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gliclass_fast.bench.cases import CPU_CASES, Case, texts
from gliclass_fast.bench.contenders import Run, Setting, Stock

OPSET = 17
INPUTS = ("input_ids", "attention_mask")
GRAPHS = 2  # Two are kept: one for a single text and one for a batch.
Feeds = dict[str, np.ndarray]
Graph = Callable[[Feeds], np.ndarray]  # It returns logits [texts, labels].
Open = Callable[[Path, Feeds], Graph]  # It also takes inputs like those that the graph will meet.


class _Logits(nn.Module):
    """The module takes tensors and returns logits."""

    def __init__(self, model: Any, labels: int) -> None:
        super().__init__()
        self.model, self.labels = model, labels

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, max_num_classes=self.labels
        ).logits
        return logits


class Exported(Stock):
    """The reference model is exported once for every number of texts and labels, and an engine opens it.

    A graph takes any number of tokens. Raises what the export or the engine raises for this model.
    """

    def __init__(self, setting: Setting, open_graph: Open) -> None:
        super().__init__(setting, setting.model)
        self.open_graph = open_graph
        self.graphs: dict[tuple[int, int], Graph] = {}  # A key is (texts, labels).
        self._run(texts(CPU_CASES[0], self.tokenizer), CPU_CASES[0].labels)

    def _run(self, strings: list[str], labels: tuple[str, ...]) -> Callable[[], np.ndarray]:
        size = (len(strings), len(labels))
        inputs = self.inputs(strings, labels)
        feeds = {name: inputs[name].cpu().numpy() for name in INPUTS}
        if size not in self.graphs:
            if len(self.graphs) == GRAPHS:
                del self.graphs[next(iter(self.graphs))]
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                export(self.pipe.pipe.model, inputs, file, len(labels))
                self.graphs[size] = self.open_graph(file, feeds)
        graph = self.graphs[size]
        return lambda: graph(feeds)

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Runs the whole batch through the graph that is timed, where padding cannot change the logits."""
        strings = texts(case, self.tokenizer)
        if len(set(case.lengths)) == 1:
            return list(self._run(strings, case.labels)()[:count])
        return [self._run([text], case.labels)()[0] for text in strings[:count]]

    def forward(self, case: Case) -> Run:
        return self._run(texts(case, self.tokenizer), case.labels)

    def pipeline(self, case: Case) -> Run | None:
        return None


def unless_float32_on_cpu(setting: Setting) -> str | None:
    """Returns why an engine for CPUs, in float32, cannot run a setting, or None where it can."""
    return None if setting.device == "cpu" and setting.dtype is torch.float32 else "for CPUs, in float32"


def export(model: Any, inputs: dict[str, Tensor], file: Path, labels: int) -> None:
    """Writes a reference model for as many texts as `inputs` holds, of any length."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model, labels).eval(),
            tuple(inputs[name] for name in INPUTS),
            str(file),
            input_names=list(INPUTS),
            output_names=["logits"],
            dynamic_axes={name: {1: "tokens"} for name in INPUTS},
            opset_version=OPSET,
            dynamo=False,
        )
