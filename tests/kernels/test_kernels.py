"""Every implementation that runs on this machine obeys its operation's contract."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gliclass_fast.kernels import disentangled_attention, grouped_linear
from gliclass_fast.ops import IMPLEMENTATIONS
from tests.kernels.cases import CASES, check

# Triton's interpreter is silently wrong in bfloat16; tests/gpu has it. int8 has a contract of its own in
# test_int8.py, CUDA runs in test_emulated.py and tests/gpu.
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
    device = "cuda" if backend == "triton" and torch.cuda.is_available() else "cpu"
    check(name, backend, dtype, device)


def test_grouped_maps_are_one_launch_where_rows_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    grids, kernel = [], grouped_linear._grouped_kernel

    class Counted:
        def __getitem__(self, grid: tuple[int, int]) -> Any:
            grids.append(grid)
            return kernel[grid]

    monkeypatch.setattr(grouped_linear, "_grouped_kernel", Counted())
    for name in ("grouped linear, gelu", "grouped linear, other widths", "grouped linear, many rows"):
        check(name, "triton", torch.float32, "cuda" if torch.cuda.is_available() else "cpu")
    assert len(grids) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("disentangled")])
def test_disentangled_attention_in_the_tiles_of_a_hopper_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disentangled_attention, "capability", lambda device: (9, 0))
    check(name, "triton", torch.float16, "cuda" if torch.cuda.is_available() else "cpu")
