"""Every Triton kernel compiled ahead of time for every GPU generation, against recorded resources.

A change of more than 10 % has to be committed knowingly:
    python -m gliclass_fast.bench.kernel_resources --output bench/results/kernels.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gliclass_fast.kernels import (
    attention,
    attention_pool,
    disentangled_attention,
    linear,
    norm,
    pairs,
    segment_pool,
    segment_softmax,
)

ROOT = Path(__file__).parent.parent.parent
RECORDED = ROOT / "bench" / "results" / "kernels.json"
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
RATCHET = 0.1


def by_launch(result: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["case"], row["architecture"]): row for row in result["rows"]}


def compile_all(file: Path, packages: Path | None = None) -> dict[tuple[str, int], dict[str, Any]]:
    """In a process of its own: the interpreter of the other tests cannot be switched off again."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    command = [sys.executable, "-m", "gliclass_fast.bench.kernel_resources", "--output", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return by_launch(json.loads(file.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    return compile_all(tmp_path_factory.mktemp("kernels") / "kernels.json")


def test_no_kernel_spills_and_all_fit(compiled: dict[tuple[str, int], dict[str, Any]]) -> None:
    for (case, architecture), row in compiled.items():
        assert row["spilled_bytes"] == 0, (case, architecture)
        assert row["shared_bytes"] <= SHARED_LIMIT[architecture], (case, architecture)


def test_resources_are_the_recorded_ones(compiled: dict[tuple[str, int], dict[str, Any]]) -> None:
    recorded = by_launch(json.loads(RECORDED.read_text(encoding="utf-8")))
    assert compiled.keys() == recorded.keys()
    for launch, row in compiled.items():
        for name in ("registers", "shared_bytes", "instructions"):
            before, now = recorded[launch][name], row[name]
            assert abs(now - before) <= RATCHET * before, f"{launch}: {name} was {before}, is {now}"


def test_every_kernel_is_compiled(compiled: dict[tuple[str, int], dict[str, Any]]) -> None:
    modules = (
        attention, attention_pool, disentangled_attention, linear, norm, pairs, segment_pool, segment_softmax,
    )  # fmt: skip
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert {row["kernel"] for row in compiled.values()} == kernels


@pytest.mark.slow
def test_kernels_compile_with_the_triton_of_torch_2_11(tmp_path: Path) -> None:
    packages, file = tmp_path / "packages", tmp_path / "kernels.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    subprocess.run([*command, "triton==3.6.0"], check=True)
    rows = compile_all(file, packages)
    assert json.loads(file.read_text(encoding="utf-8"))["triton"] == "3.6.0"
    assert not any(row["spilled_bytes"] for row in rows.values())
