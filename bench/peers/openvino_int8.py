"""The reference model in OpenVINO's int8: nncf finds the ranges of values in runs of one batch."""

from __future__ import annotations

import logging
from pathlib import Path

from gliclass_fast.bench.contenders import Contender, Setting
from gliclass_fast.bench.exported import Exported, Feeds, Graph, unless_float32_on_cpu
from gliclass_fast.bench.peers.openvino_float32 import compiled

NAME = "OpenVINO, int8"
PACKAGES = ("gliclass", "onnx", "openvino", "nncf")
SAME_MODEL = True
ROUNDS = True
unsuitable = unless_float32_on_cpu


def _open_rounded(file: Path, like: Feeds) -> Graph:
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(file)
    found = nncf.quantize(model, nncf.Dataset([like]), model_type=nncf.ModelType.TRANSFORMER, subset_size=1)
    return compiled(found)


def build(setting: Setting) -> Contender:
    return Exported(setting, _open_rounded)
