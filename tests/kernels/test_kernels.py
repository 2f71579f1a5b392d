"""Every implementation that runs on this machine obeys its operation's contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gliclass_fast.kernels import disentangled_attention, grouped_linear
from gliclass_fast.ops import IMPLEMENTATIONS
from tests.kernels.cases import CASES, check

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of Triton
# Triton's interpreter is silently wrong in bfloat16; tests/gpu has it. int8 has a contract of its own in
# test_int8.py, and cpp_bfloat16 in test_bfloat16_attention.py. CUDA runs in test_emulated.py and tests/gpu.
DTYPES = {
    "reference": [torch.float32, torch.float16, torch.bfloat16],
    "onednn": [torch.float32],
    "cpp": [torch.float32],
    "triton": [torch.float32, torch.float16],
}
# many rows are slow in the interpreter: in float16 the gated product stands for those
FLOAT32_ALONE = (
    "norm and linear, 1030 rows",
    "norm and linear, 1030 rows, added to",
    "RMS norm and linear, 1030 rows, gated",
)
RUNS = [
    pytest.param(
        name,
        backend,
        dtype,
        id=f"{name}-{backend}-{str(dtype).removeprefix('torch.')}",
        marks=[pytest.mark.nightly]
        * ((backend, dtype) == ("triton", torch.float16) and name in FLOAT32_ALONE),
    )
    for name, (operation, _) in CASES.items()
    for backend in IMPLEMENTATIONS[operation]
    for dtype in DTYPES.get(backend, [])
]


@pytest.mark.parametrize(("name", "backend", "dtype"), RUNS)
def test_contract(name: str, backend: str, dtype: torch.dtype) -> None:
    check(name, backend, dtype, DEVICE if backend == "triton" else "cpu")


def test_grouped_maps_are_one_launch_where_rows_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    grids, kernel = [], grouped_linear._grouped_kernel

    class Counted:
        def __getitem__(self, grid: tuple[int, int]) -> Any:
            grids.append(grid)
            return kernel[grid]

    monkeypatch.setattr(grouped_linear, "_grouped_kernel", Counted())
    for name in ("grouped linear, gelu", "grouped linear, other widths", "grouped linear, many rows"):
        check(name, "triton", torch.float32, DEVICE)
    assert len(grids) == 1


def test_disentangled_attention_has_large_tiles_where_they_do_not_spill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides, kernel = [], disentangled_attention._disentangled_kernel

    class Noted:
        def __getitem__(self, grid: tuple[int]) -> Any:
            def launch(*arguments: Any, **options: Any) -> None:
                sides.append(options["SIDE"])
                kernel[grid](*arguments, **options)

            return launch

    monkeypatch.setattr(disentangled_attention, "_disentangled_kernel", Noted())
    for version in ((8, 0), (8, 9), (9, 0), (10, 3), (12, 0)):
        monkeypatch.setattr(disentangled_attention, "capability", lambda device, found=version: found)
        check("disentangled attention without c2p", "triton", torch.float16, DEVICE)
    assert sides == [32, 32, 64, 64, 32]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("disentangled")])
def test_disentangled_attention_in_the_tiles_of_a_hopper_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disentangled_attention, "capability", lambda device: (9, 0))
    check(name, "triton", torch.float16, DEVICE)
