"""The reference model in ONNX Runtime: it is exported to ONNX first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from gliclass_fast.bench.contenders import Contender, Setting
from gliclass_fast.bench.exported import Exported, Feeds, Graph

NAME = "ONNX Runtime"
PACKAGES = ("gliclass", "onnx", "onnxruntime")
SAME_MODEL = True


def unsuitable(setting: Setting) -> str | None:
    if setting.device == "cpu":
        return None if setting.dtype is torch.float32 else "exported in float32 on CPUs"
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return None if "CUDAExecutionProvider" in providers else "this onnxruntime has no CUDA provider"


def open_graph(device: str, file: Path, like: Feeds) -> Graph:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # It stops between runs.
    provider = "CPUExecutionProvider" if device == "cpu" else "CUDAExecutionProvider"
    session = onnxruntime.InferenceSession(file, options, providers=[provider])
    return lambda feeds: session.run(None, feeds)[0]


def build(setting: Setting) -> Contender:
    return Exported(setting, partial(open_graph, setting.device))
