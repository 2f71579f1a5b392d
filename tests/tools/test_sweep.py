"""A sweep of block sizes times every candidate that runs, and leaves the tables as they were."""

from __future__ import annotations

import pytest
import torch

from gliclass_fast.bench import operations
from gliclass_fast.bench.operations import Run
from gliclass_fast.kernels import attention, linear
from tools import bench_sweep


def test_candidates_stand_beside_the_chosen_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(linear.TILE), dict(attention.TILE)
    small, impossible = (16, 16, 16, 1, 1), (15, 16, 16, 1, 1)
    monkeypatch.setattr(bench_sweep, "GEMM_BLOCKS", {False: (small, impossible)})
    monkeypatch.setattr(bench_sweep, "ATTENTION_BLOCKS", ((16, 16, 1, 1),))
    monkeypatch.setattr(bench_sweep, "WIDTH", 32)
    met: list[tuple[object, object]] = []

    def recorded(run: Run, device: str) -> Run:
        run()
        met.append((linear.TILE[4, False], attention.TILE[4, 128]))
        return lambda: None

    monkeypatch.setattr(operations, "recorded", recorded)
    rows = list(bench_sweep.measure("cpu", torch.float32, 1))
    assert [row["sweep"] for row in rows][:2] == ["up, GELU", "norm, GeGLU"] and len(rows) == 6
    assert before == (linear.TILE, attention.TILE)
    for row in rows[:2]:
        assert set(row["us"]) == {row["chosen"], str(small)} and set(row["not_run"]) == {str(impossible)}
    for row in rows[2:]:
        assert set(row["us"]) == {row["chosen"], "(16, 16, 1, 1)"} and not row["not_run"]
    assert {of_gemm for of_gemm, _ in met} == {before[0][4, False], small}
    assert {of_attention for _, of_attention in met} == {before[1][4, 128], (16, 16, 1, 1)}
