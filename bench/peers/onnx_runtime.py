"""The reference model in ONNX Runtime: it is exported to ONNX first."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gliclass_fast.bench.cases import CPU_CASES, Case, texts
from gliclass_fast.bench.contenders import Contender, Run, Setting, Stock

NAME = "ONNX Runtime"
PACKAGES = ("gliclass", "onnx", "onnxruntime")
SAME_MODEL = True
OPSET = 17
INPUTS = ("input_ids", "attention_mask")
SESSIONS = 2  # Two are kept: one for a single text and one for a batch.


def unsuitable(setting: Setting) -> str | None:
    if setting.device == "cpu":
        return None if setting.dtype is torch.float32 else "exported in float32 on CPUs"
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return None if "CUDAExecutionProvider" in providers else "this onnxruntime has no CUDA provider"


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


class _OnnxRuntime(Stock):
    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, setting.model)
        self.on_cpu = setting.device == "cpu"
        self.sessions: dict[tuple[int, int], Any] = {}  # A key is (texts, labels).
        self._run(
            texts(CPU_CASES[0], self.tokenizer), CPU_CASES[0].labels
        )  # A model that cannot be exported fails here.

    def _run(self, strings: list[str], labels: tuple[str, ...]) -> Run:
        """Returns a run of the graph for so many texts and labels, which takes any number of tokens."""
        import onnxruntime

        size = (len(strings), len(labels))
        inputs = self.inputs(strings, labels)
        if size not in self.sessions:
            if len(self.sessions) == SESSIONS:
                del self.sessions[next(iter(self.sessions))]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.add_session_config_entry("session.force_spinning_stop", "1")  # It stops between runs.
            provider = "CPUExecutionProvider" if self.on_cpu else "CUDAExecutionProvider"
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.onnx"
                export(self.pipe.pipe.model, inputs, file, len(labels))
                self.sessions[size] = onnxruntime.InferenceSession(file, options, providers=[provider])
        session, feeds = self.sessions[size], {name: inputs[name].cpu().numpy() for name in INPUTS}
        return lambda: session.run(None, feeds)

    def logits(self, case: Case, count: int) -> list[np.ndarray]:
        """Runs the whole batch through the graph that is timed, where padding cannot change the logits."""
        strings = texts(case, self.tokenizer)
        if len(set(case.lengths)) == 1:
            return list(self._run(strings, case.labels)()[0][:count])
        return [self._run([text], case.labels)()[0][0] for text in strings[:count]]

    def forward(self, case: Case) -> Run:
        return self._run(texts(case, self.tokenizer), case.labels)

    def pipeline(self, case: Case) -> Run | None:
        return None


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


def build(setting: Setting) -> Contender:
    return _OnnxRuntime(setting)
