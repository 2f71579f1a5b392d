"""Timing by alternation: a result also carries facts about the machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gliclass_fast.kernels._extension import absence, extension

SPINNING = 0.005  # seconds
PACKAGES = ("gliclass-fast", "gliclass", "torch", "triton", "transformers", "onnxruntime")
PEERS = ("openvino", "nncf", "fast-gliner", "gliner2", "flashdeberta", "disentangled-flash", "polylora")


@dataclass(frozen=True, slots=True)
class Times:
    """Times are milliseconds over repeated runs."""

    median: float
    p20: float
    p80: float
    p99: float
    runs: int


def alternate(
    functions: Mapping[str, Callable[[], Any]], repeats: int = 9, warmup: int = 2, device: str = "cpu"
) -> dict[str, Times]:
    """Runs the functions in turn, so that a busy moment of the machine hits all of them alike."""
    for _ in range(warmup):
        for function in functions.values():
            function()
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            _settle(device)
            start = time.perf_counter()
            function()
            _synchronize(device)
            samples[name].append(1e3 * (time.perf_counter() - start))
    return {name: _summary(values) for name, values in samples.items()}


def _settle(device: str) -> None:
    """Waits for the GPU, or until threads that spin for more after their work have gone to sleep."""
    if device == "cpu":
        time.sleep(SPINNING)
    else:
        _synchronize(device)


def _synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _summary(values: list[float]) -> Times:
    p20, median, p80, p99 = (round(float(cut), 3) for cut in np.percentile(values, (20, 50, 80, 99)))
    return Times(median, p20, p80, p99, len(values))


def as_record(times: dict[str, Times]) -> dict[str, dict[str, float]]:
    return {name: asdict(each) for name, each in times.items()}


def machine(device: str = "cpu") -> dict[str, Any]:
    """Returns processor, accelerator, versions and commit."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "instructions": _instructions(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: found for name in (*PACKAGES, *PEERS) if (found := _version(name))},
        "commit": _commit(),
    }
    if device != "cpu":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """Names the processor, and its family and model by number, as a name may stand for several."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if not {"model name", "cpu family", "model"} <= facts.keys():
        return facts.get("model name", platform.processor())
    return f"{facts['model name']}, family {facts['cpu family']}, model {facts['model']}"


def _instructions() -> str:
    """Names the vector instructions of the package's kernels for CPUs, or torch's where it has none."""
    if absence("cpu"):
        return str(torch.backends.cpu.get_cpu_capability())
    sets: dict[int, tuple[str, int]] = extension().instruction_sets()
    return next(iter(sets.values()))[0]


def _commit() -> str | None:
    """Returns the commit of this source tree, or None for an installed package."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    return done.stdout.strip() or None
