"""The CUDA source of csrc/, compiled for a CPU and run in the emulator, obeys the operations' contracts."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from gliclass_fast.kernels import compiled_disentangled_attention
from gliclass_fast.kernels._arithmetic import ceil_div
from gliclass_fast.kernels._extension import address
from gliclass_fast.kernels.disentangled_attention import pack_distances_by_row
from gliclass_fast.ops import TILE_ROWS, DistanceTables, implementation
from tests.accuracy import assert_accurate
from tests.kernels import cases
from tests.kernels.adapter_cases import COMPILED, adapted_attention
from tests.pairwise import Row, in_words, pairwise

pytestmark = pytest.mark.slow
SOURCE = Path(__file__).parent.parent.parent / "csrc"
# what the design promises, tighter than the accuracy rule
RELATIVE_ERROR = {torch.float16: 4e-4, torch.bfloat16: 3e-3}
# queries of a block, shares of its warps, and blocks: more than items, or fewer, as for large batches
BLOCKS = ((16, 1, 3), (64, 1, 3), (64, 2, 3), (64, 2, 1000), (128, 1, 3))
SHAPES: dict[str, dict[str, Any]] = {
    "ragged, reach 3": {"reach": 3},
    "ragged, reach 400": {"reach": 400},
    # several tiles of every size, of which some pairs lie beyond the reach and others within
    "300 tokens": {"lengths": [300], "reach": 220},
    "no c2p": {"lengths": [7, 70], "without": "c2p"},
    "no p2c": {"lengths": [7, 70], "without": "p2c"},
    "short": {"lengths": [1, 16, 4, 9, 12, 2], "reach": 5},
}


def compiled(source: Path, target: Path, optimisation: str = "-O1") -> Path:
    command = [os.environ.get("CXX", "g++"), "-x", "c++", "-std=c++17", optimisation, "-shared", "-fPIC"]
    command += ["-DGLICLASS_EMULATE", str(source / "cuda" / "disentangled_attention.cu"), "-o", str(target)]
    subprocess.run(command, check=True)
    return target


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(SOURCE, tmp_path_factory.mktemp("emulated") / "kernels.so")


class Launch(ctypes.Structure):
    """The struct of csrc/cuda/disentangled_attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("qkv", "key_table", "query_table", "tiles", "slots", "out")),
        *((name, ctypes.c_int) for name in ("heads", "reach", "held", "parts")),
        ("scale", ctypes.c_float),
        ("bf16", ctypes.c_bool),
        ("rows", ctypes.c_int),
        ("shares", ctypes.c_int),
        ("stream", ctypes.c_void_p),
    )


def prepared(arguments: tuple[Any, ...], blocks: tuple[int, int, int]) -> tuple[Launch, Tensor]:
    """Gives a launch and what it will write to; the launch keeps the tensors that it reads."""
    qkv, sequences, scale, tables = arguments
    tables = pack_distances_by_row(tables)
    rows, shares, _ = blocks
    out = torch.full((qkv.shape[0], qkv.shape[2] * 64), float("nan"), dtype=qkv.dtype)
    launch = Launch(
        qkv=address(qkv),
        key_table=address(tables.key_table),
        query_table=address(tables.query_table),
        tiles=address(sequences.tiles),
        out=address(out),
        heads=qkv.shape[2],
        reach=tables.reach,
        parts=ceil_div(min(sequences.longest, TILE_ROWS), rows),
        scale=scale,
        bf16=qkv.dtype is torch.bfloat16,
        rows=rows,
        shares=shares,
    )
    launch.reads = (arguments, tables)
    return launch, out


def attend(library: Path, arguments: tuple[Any, ...], blocks: tuple[int, int, int]) -> Tensor:
    launch, out = prepared(arguments, blocks)
    run_emulated(library, launch, blocks[2])
    return out


def run_emulated(library: Path, launch: Launch, count: int) -> None:
    """Runs it in so many blocks."""
    kernels = ctypes.CDLL(str(library))
    ctypes.c_int.in_dll(kernels, "gliclass_emulated_blocks").value = count
    assert kernels.gliclass_disentangled_attention(ctypes.byref(launch)) == 0


@pytest.mark.parametrize(
    "row",
    pairwise(shape=tuple(SHAPES), blocks=BLOCKS, dtype=(torch.float16, torch.bfloat16)),
    ids=in_words,
)
def test_contract(library: Path, row: Row) -> None:
    dtype, shape = row["dtype"], row["shape"]
    arguments, slow = cases.disentangled_attention(dtype, width=64, **SHAPES[shape])
    out, exact = attend(library, arguments, row["blocks"]), slow(torch.float64)
    assert_accurate(out, exact, slow(dtype))


@pytest.mark.parametrize(
    "row",
    pairwise(shape=tuple(COMPILED), blocks=BLOCKS, dtype=(torch.float16, torch.bfloat16)),
    ids=in_words,
)
def test_contract_with_adapters(library: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that a GPU gets runs in the emulator, so what it makes of the store is tested too."""
    stand_in = SimpleNamespace(
        DisentangledAttention=Launch,
        disentangled_attention_cuda=lambda launch: run_emulated(library, launch, row["blocks"][2]),
    )
    monkeypatch.setattr(compiled_disentangled_attention, "extension", lambda: stand_in)
    monkeypatch.setattr(compiled_disentangled_attention, "address", lambda tensor, device: address(tensor))
    monkeypatch.setattr(compiled_disentangled_attention, "blocks", lambda *_: row["blocks"][:2])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=None))
    torch.manual_seed(0)
    arguments, slow = adapted_attention(row["dtype"], width=64, **COMPILED[row["shape"]])
    run = implementation("adapted_attention", "cuda")
    out = run(*cases.packed("adapted_attention", "cuda", arguments))
    assert_accurate(out, slow(torch.float64), slow(row["dtype"]))


@pytest.mark.parametrize("dtype", RELATIVE_ERROR)
def test_error_on_inputs_of_a_trained_model_s_size(library: Path, dtype: torch.dtype) -> None:
    (qkv, sequences, scale, tables), _ = cases.disentangled_attention(dtype, width=64)
    halves = [each * 0.5 for each in (tables.key_table, tables.query_table)]
    tables = DistanceTables(*halves, tables.bucket_of)
    doubled = DistanceTables(*(each.double() for each in halves), tables.bucket_of)
    attention = implementation("disentangled_attention", "reference")
    exact = attention(qkv.double(), sequences, scale, doubled)
    out = attend(library, (qkv, sequences, scale, tables), (128, 1, 3))
    assert (out.double() - exact).norm() / exact.norm() <= RELATIVE_ERROR[dtype]


@pytest.fixture(scope="module")
def scheduled() -> tuple[tuple[Any, ...], Tensor, Tensor]:
    """Gives arguments of which several items fall to a block, with what is exact and in float16."""
    torch.manual_seed(0)
    arguments, slow = cases.disentangled_attention(torch.float16, width=64, lengths=[17, 200], reach=40)
    return arguments, slow(torch.float64), slow(torch.float16)


def is_right(library: Path, scheduled: Any, blocks: tuple[int, int, int], seed: int) -> bool:
    """Runs in a child, as the seed of the emulator's schedule is read once, when a library is used first."""
    arguments, exact, low = scheduled
    launch, out = prepared(arguments, blocks)
    out.share_memory_()
    launch.out = address(out)

    def run() -> None:
        os.environ["EMULATOR_SEED"] = str(seed)
        run_emulated(library, launch, blocks[2])

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 0
    try:
        assert_accurate(out, exact, low)
    except AssertionError:
        return False
    return True


def test_every_schedule_gives_the_same(library: Path, scheduled: Any) -> None:
    assert all(is_right(library, scheduled, blocks, seed) for blocks in BLOCKS for seed in range(2))


@pytest.mark.nightly
@pytest.mark.parametrize(
    "statement",
    [
        r"block_sync\(\);",
        r"share_sync\(share, THREADS\);",
        r"wait_for_copies<\d>\(\);",
        r"commit_copies\(\);",
    ],
)
def test_a_removed_barrier_or_wait_is_caught(statement: str, scheduled: Any, tmp_path: Path) -> None:
    text = (SOURCE / "cuda" / "disentangled_attention.cuh").read_text(encoding="utf-8")
    places = list(re.finditer(statement, text))
    assert len(places) >= 2
    for number, place in enumerate(places):
        broken = tmp_path / str(number)
        for name in ("cuda", "emulator"):
            shutil.copytree(SOURCE / name, broken / name)
        changed = text[: place.start()] + text[place.end() :]
        (broken / "cuda" / "disentangled_attention.cuh").write_text(changed, encoding="utf-8")
        library = compiled(broken, tmp_path / f"{number}.so", "-O0")
        assert not all(
            is_right(library, scheduled, (64, 2, count), seed) for count in (3, 1000) for seed in range(4)
        ), f"{statement} number {number}"
