"""The reference model in OpenVINO: it is exported to ONNX first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gliclass_fast.bench.contenders import Contender, Setting
from gliclass_fast.bench.exported import Exported, Feeds, Graph, unless_float32_on_cpu

NAME = "OpenVINO"
PACKAGES = ("gliclass", "onnx", "openvino")
SAME_MODEL = True
unsuitable = unless_float32_on_cpu


def compiled(model: Any) -> Graph:
    """Returns a run of an OpenVINO model on as many threads as torch uses, for one caller at a time."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    return lambda feeds: next(iter(request.infer(feeds).values()))


def _open(file: Path, like: Feeds) -> Graph:
    import openvino

    return compiled(openvino.Core().read_model(file))


def build(setting: Setting) -> Contender:
    return Exported(setting, _open)
