"""nvcc made of the extension what is recorded, and PyTorch and the dispatch see it as they should."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses import FakeTensorMode

from gliclass_fast.kernels import _extension, compiled_disentangled_attention
from gliclass_fast.ops import (
    DistanceTables,
    Sequences,
    choose_ops,
    compiled_kernels,
    unavailable_reason,
)
from tools.compiled_resources import measure

RECORDED = Path(__file__).parent.parent.parent / "bench" / "results" / "compiled.json"
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
RATCHET = 0.1


def test_it_was_built() -> None:
    assert compiled_kernels()["CPU"].endswith("portable (the first is used)")
    assert "sm_80, sm_86, sm_89, sm_90" in compiled_kernels()["CUDA"]


def test_resources_are_the_recorded_ones() -> None:
    """The recorded ones are written by `make resources`, to be run after a change to csrc."""
    recorded = {
        (row["kernel"], row["architecture"]): row
        for row in json.loads(RECORDED.read_text(encoding="utf-8"))["rows"]
    }
    found = {(row["kernel"], row["architecture"]): row for row in measure()}
    assert found.keys() == recorded.keys() and len(found) == 32 * len(SHARED_LIMIT)
    for launch, row in found.items():
        assert row["spilled_bytes"] == 0, launch
        # Two shares run only where the device has shared memory for them.
        limits = SHARED_LIMIT[row["architecture"]], SHARED_LIMIT[90] if "shares" in row["kernel"] else 0
        assert row["shared_bytes"] <= max(limits), launch
        for name in ("registers", "shared_bytes", "instructions"):
            before, now = recorded[launch][name], row[name]
            assert abs(now - before) <= RATCHET * before, f"{launch}: {name} was {before}, is {now}"


@pytest.mark.slow
def test_a_launch_that_fails_raises_what_cuda_says() -> None:
    program = (
        "from gliclass_fast.kernels import _compiled\n"
        "_compiled.disentangled_attention_cuda(_compiled.DisentangledAttention(rows=64, heads=1, parts=1))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0 and "RuntimeError" in done.stderr and "CUDA" in done.stderr


def fakes() -> tuple[torch.Tensor, Sequences, float, DistanceTables]:
    qkv = torch.empty(7, 3, 12, 64, dtype=torch.float16, device="cuda")
    tiles = torch.empty(3, 4, dtype=torch.int32, device="cuda")
    bucket_of = torch.empty(1025, dtype=torch.int64, device="cuda")
    tables = DistanceTables(torch.empty(12, 1025, 64, dtype=torch.float16, device="cuda"), None, bucket_of)
    return qkv, Sequences(tiles, None, tiles, longest=7), 0.1, tables


def test_the_operation_has_a_shape_without_running() -> None:
    with FakeTensorMode():
        out = compiled_disentangled_attention.disentangled_attention_cuda(*fakes())
        assert out.shape == (7, 768) and out.dtype is torch.float16 and out.device.type == "cuda"


@pytest.mark.slow
def test_a_compiled_call_is_one_operator() -> None:
    targets: list[object] = []

    def backend(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        targets.extend(node.target for node in module.graph.nodes if node.op == "call_function")
        return module.forward

    with FakeTensorMode():
        call = torch.compile(
            compiled_disentangled_attention.disentangled_attention_cuda, backend=backend, fullgraph=True
        )
        assert call(*fakes()).shape == (7, 768)
    assert targets == [torch.ops.gliclass_fast.disentangled_attention.default]


@pytest.mark.parametrize(
    ("tokens", "longest", "wanted"),
    [
        (4096, 16, (16, 1)),
        (128, 64, (64, 1)),  # one step of keys cannot be divided
        (128, 128, (64, 2)),
        (704, 704, (64, 2)),  # 132 blocks of 64 queries, as many as multiprocessors
        (720, 720, (64, 1)),
        (1408, 512, (128, 1)),
    ],
)
def test_blocks_of_an_h100(
    tokens: int, longest: int, wanted: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = compiled_disentangled_attention
    monkeypatch.setattr(module, "processors", lambda device: 132)
    assert module.blocks(tokens, 12, longest, torch.device("cuda")) == wanted


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    half = torch.float16
    assert unavailable_reason("cuda", "cpu", half) == "compiled CUDA kernels run on GPUs"
    with pytest.raises(ValueError, match="'cuda' cannot run: compiled CUDA kernels run on GPUs"):
        choose_ops("cpu", half, only="cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(
        compiled_disentangled_attention, "problem", lambda device: "CUDA driver version is insufficient"
    )
    assert "does not take the compiled CUDA kernels: CUDA driver" in str(
        unavailable_reason("cuda", "cuda", half, 64)
    )
    monkeypatch.setattr(compiled_disentangled_attention, "problem", lambda device: None)
    assert unavailable_reason("cuda", "cuda", half, 64) is None
    chosen = choose_ops("cuda", half, head_width=64)
    for operation in ("disentangled_attention", "pack_distances", "adapted_attention", "table_store"):
        assert chosen.chosen[operation] == "cuda"
    assert chosen.chosen["attention"] == "triton" and chosen.recordable
    assert choose_ops("cuda", half, head_width=32).chosen["disentangled_attention"] == "triton"
    assert choose_ops("cuda", torch.float32, head_width=64).chosen["disentangled_attention"] == "triton"
    assert "heads 64 wide, not 32" in str(unavailable_reason("cuda", "cuda", half, 32))
    assert "16 bit, not torch.float32" in str(unavailable_reason("cuda", "cuda", torch.float32, 64))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability 8.0" in str(unavailable_reason("cuda", "cuda", half, 64))


def test_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "compiled", None)
    monkeypatch.setattr(_extension, "import_error", ImportError("no such module"))
    assert set(compiled_kernels().values()) == {"compiled kernels cannot be imported: no such module"}
    for backend, device, dtype in (("cuda", "cuda", torch.float16), ("cpp", "cpu", torch.float32)):
        assert "cannot be imported" in str(unavailable_reason(backend, device, dtype, 64))
    assert choose_ops("cpu").chosen["attention"] == "reference"


def test_a_source_tree_without_a_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "compiled", None)
    monkeypatch.setattr(_extension, "__file__", str(tmp_path / "kernels" / "_extension.py"))
    told = "a source tree without a build; start Python in another folder, or pip install -e ."
    assert told not in str(_extension.absence("cpu"))  # an installed package
    (tmp_path / "csrc").mkdir()
    assert told in str(_extension.absence("cpu")) and told in compiled_kernels()["CUDA"]
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "_compiled.abi3.so").touch()  # a build that cannot be imported
    assert "cannot be imported" in str(_extension.absence("cpu"))


def test_other_fields_or_arguments_have_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes them raises `layout` in csrc/bindings.cpp and LAYOUT, and puts the new sums here."""
    sums = {}
    built = {part: names for part, names in _extension._NAMES.items() if _extension.absence(part) is None}
    for part, names in built.items():
        known = [getattr(_extension.compiled, name) for name in names]
        # of a function, the number of arguments
        found = [getattr(each, "fields", len(re.findall(r"\barg\d+", each.__doc__ or ""))) for each in known]
        sums[part] = zlib.crc32(repr(found).encode())
    assert _extension.LAYOUT == 8 and "cpu" in sums
    assert sums.items() <= {"cpu": 3418409122, "cuda": 1232553572}.items()
    monkeypatch.setattr(_extension.compiled, "layout", 0)
    assert all("another version" in str(_extension.absence(part)) for part in built)


def test_a_build_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is called, and is not there, has the part count as absent before it is called."""
    kernels = Path(_extension.__file__).parent
    whole = _extension.compiled
    for file in kernels.glob("compiled_*.py"):
        for name in re.findall(r"extension\(\)\.(\w+)", file.read_text(encoding="utf-8")):
            others = {each: value for each, value in vars(whole).items() if each != name}
            monkeypatch.setattr(_extension, "compiled", SimpleNamespace(**others))
            absent = [part for part in ("cpu", "cuda") if "another version" in str(_extension.absence(part))]
            assert absent == ["cuda" if file.stem == "compiled_disentangled_attention" else "cpu"], name
