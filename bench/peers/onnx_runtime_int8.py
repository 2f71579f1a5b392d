"""The reference model in ONNX Runtime's int8: weights are rounded once, and inputs in every run."""

from __future__ import annotations

from pathlib import Path

import torch

from gliclass_fast.bench.contenders import Contender, Setting
from gliclass_fast.bench.exported import Exported, Feeds, Graph, unless_float32_on_cpu
from gliclass_fast.bench.peers.onnx_runtime import open_graph

NAME = "ONNX Runtime, int8"
PACKAGES = ("gliclass", "onnx", "onnxruntime")
SAME_MODEL = True
ROUNDS = True
unsuitable = unless_float32_on_cpu


def _open_rounded(file: Path, like: Feeds) -> Graph:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rounded = file.with_name("rounded.onnx")
    vnni = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_vnni", "avx_vnni"))
    # Without VNNI its sums saturate unless weights have 7 bits, as its documentation says.
    quantize_dynamic(file, rounded, per_channel=True, reduce_range=not vnni, weight_type=QuantType.QInt8)
    return open_graph("cpu", rounded, like)


def build(setting: Setting) -> Contender:
    return Exported(setting, _open_rounded)
