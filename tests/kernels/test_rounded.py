"""What int8 and bfloat16 linear maps have in common, on every instruction set."""

from __future__ import annotations

import math

import pytest
import torch

from gliclass_fast.kernels._extension import extension
from tests.kernels.rounded import SETS, Run, use


@pytest.fixture(params=["int8", "bfloat16"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SETS, ids=[name for name, _ in SETS.values()])
def run(request: pytest.FixtureRequest, backend: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    number = request.param
    use(number, monkeypatch)
    return Run(backend, extension().int8_adds_pairs(number))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows(value: float, run: Run) -> None:
    """A bad value spoils its row and no other."""
    x, weight = torch.randn(7, 40), torch.randn(38, 40)
    x[2, 9] = value
    for each in (run, Run("int8_reference", in_pairs=False)):
        for found in (
            each("linear", x, weight, None),
            each("norm_linear", x, weight, None, None, 1e-5),
            each("norm_linear", x, weight, None, weight.sum(1), 1e-5),
        ):
            assert not found[2].isfinite().any() and found[[0, 1, 3, 4, 5, 6]].isfinite().all()


@pytest.mark.usefixtures("kept_threads")
def test_threads_and_other_rows_change_nothing(run: Run) -> None:
    x, weight = torch.randn(230, 72), torch.randn(136, 72)
    outs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        outs.append(run("norm_linear", x, weight, None, None, 1e-5, "gelu", gated=True))
    alone = run("norm_linear", x[200:203], weight, None, None, 1e-5, "gelu", gated=True)
    for each in outs:
        assert torch.equal(each, outs[0]) and torch.equal(each[200:203], alone)
