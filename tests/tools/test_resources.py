"""Every Triton kernel, compiled ahead of time for every GPU generation, takes the recorded resources.

A change of more than 10 % has to be committed knowingly: `make resources` records anew, for the Triton of
constraints.txt and for that of torch 2.11.
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
    causal_attention,
    disentangled_attention,
    grouped_linear,
    linear,
    lora,
    norm,
    pairs,
    segment_pool,
    segment_softmax,
)

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "bench" / "results"
OLDER = "3.6.0"  # the Triton of torch 2.11
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
RATCHET = 0.1
Launches = dict[tuple[str, str, int], dict[str, Any]]  # by case, kernel and architecture


def by_launch(result: dict[str, Any]) -> Launches:
    return {(row["case"], row["kernel"], row["architecture"]): row for row in result["rows"]}


def compile_all(file: Path, packages: Path | None = None) -> Launches:
    """Compiles in another process, as the interpreter of the other tests cannot be switched off again."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    command = [sys.executable, "-m", "tools.kernel_resources", "--brief", "--output", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return by_launch(json.loads(file.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Launches:
    return compile_all(tmp_path_factory.mktemp("kernels") / "kernels.json")


def assert_as_recorded(compiled: Launches, file: str) -> None:
    """Nothing spills or exceeds the shared memory, and all is within the ratchet of what is recorded."""
    recorded = by_launch(json.loads((RESULTS / file).read_text(encoding="utf-8")))
    assert compiled.keys() == recorded.keys()
    for launch, row in compiled.items():
        assert row["spilled_bytes"] == 0, launch
        assert row["shared_bytes"] <= SHARED_LIMIT[row["architecture"]], launch
        for name in ("registers", "shared_bytes", "instructions"):
            before, now = recorded[launch][name], row[name]
            assert abs(now - before) <= RATCHET * before, f"{launch}: {name} was {before}, is {now}"


def test_resources_are_the_recorded_ones(compiled: Launches) -> None:
    assert_as_recorded(compiled, "kernels.json")


def test_every_kernel_is_compiled(compiled: Launches) -> None:
    modules = (
        attention, attention_pool, causal_attention, disentangled_attention, grouped_linear, linear, lora,
        norm, pairs, segment_pool, segment_softmax,
    )  # fmt: skip
    kernels = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert {row["kernel"] for row in compiled.values()} == kernels


@pytest.mark.nightly
def test_resources_are_the_recorded_ones_with_the_triton_of_torch_2_11(tmp_path: Path) -> None:
    packages, file = tmp_path / "packages", tmp_path / "kernels.json"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages)]
    subprocess.run([*command, f"triton=={OLDER}"], check=True)
    rows = compile_all(file, packages)
    assert json.loads(file.read_text(encoding="utf-8"))["triton"] == OLDER
    assert_as_recorded(rows, f"kernels-triton-{OLDER}.json")
