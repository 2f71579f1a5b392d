"""Linear maps in bfloat16 stay within the error that rounding allows, on every instruction set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels._extension import extension
from gliclass_fast.kernels.linear import ACTIVATIONS, normed
from tests.kernels.rounded import SETS, SHAPES, Run, use

BFLOAT16 = Run("bfloat16", in_pairs=False)


@pytest.fixture(params=SETS, ids=[name for name, _ in SETS.values()])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the kernel on every instruction set that this processor has."""
    number = request.param
    use(number, monkeypatch)
    return BFLOAT16


def test_two_sets_have_instructions_for_it() -> None:
    sets = extension().instruction_sets()
    assert {name: extension().multiplies_bfloat16(number) for number, (name, _) in sets.items()} == {
        name: name in ("avx512bf16", "amx") for name, _ in sets.values()
    }


def allowed(x: Tensor, weight: Tensor) -> Tensor:
    """Gives every element's largest error, as kernels/compiled_bfloat16.py has it."""
    return x.double().abs() @ weight.double().abs().T / 127


@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_alone_separates_it_from_the_exact_product(shape: tuple[int, int, int], run: Run) -> None:
    rows, depth, width = shape
    x, weight, bias = torch.randn(rows, depth), torch.randn(width, depth), torch.randn(width)
    x[:, 0] *= 50  # one column far beyond the others
    for inputs in (x, F.gelu(x), 1e-20 * x):
        error = run("linear", inputs, weight, None).double() - inputs.double() @ weight.double().T
        assert (error.abs() <= allowed(inputs, weight)).all()
        found = run("linear", inputs, weight, bias).double()
        added = run("linear_add", inputs, weight, bias, torch.ones(rows, width)).double()
        assert torch.allclose(added, found + 1, rtol=1e-5, atol=1e-4)
    rounded = x.bfloat16().double() @ weight.bfloat16().double().T
    error = run("linear", x, weight, None).double() - rounded
    assert (error.abs() <= 1e-4 * allowed(x, weight) * depth**0.5).all()  # of sums in float32


def test_numbers_are_rounded_as_torch_does(run: Run) -> None:
    """Ties go to even numbers, the largest ones to infinity, and no NaN becomes a number."""
    bits = torch.tensor([0x3F808000, 0x3F818000, 0x3F80FFFF, 0x7F7FFFFF, 0x7F800000, -0x00800000, 0x7FFFFFFF])
    values = bits.to(torch.int32).view(torch.float32)
    found = torch.stack([run("linear", value.view(1, 1), torch.ones(16, 1), None)[0, 0] for value in values])
    assert torch.equal(found.nan_to_num(nan=7.0), values.bfloat16().float().nan_to_num(nan=7.0))
    assert found.isnan().tolist() == values.isnan().tolist()


def test_small_whole_numbers_are_exact(run: Run) -> None:
    """Products of 8 bits and their sums lose nothing, also in rows and columns that fill no vector."""
    for rows, depth, width in ((1, 4, 8), (5, 33, 38), (20, 1021, 50), (33, 64, 48)):
        x, weight = torch.randint(-127, 128, (rows, depth)), torch.randint(-127, 128, (width, depth))
        assert torch.equal(run("linear", x.float(), weight.float(), None), (x @ weight.T).float())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", [24, 96])  # halves that fill no vectors, or do
def test_what_comes_before_and_after_the_product(activation: str, rms: bool, width: int, run: Run) -> None:
    x, weight, bias = 3 * torch.randn(29, 50) + 1, torch.randn(width, 50), torch.randn(width)
    product, after = run("linear", x, weight, bias), ACTIVATIONS[activation]
    assert torch.allclose(run("linear", x, weight, bias, activation), after(product), atol=1e-5)
    sums, n = None if rms else weight.sum(1), normed(x, 1e-5, rms)
    found = run("norm_linear", x, weight, bias, sums, 1e-5)
    exact = n.double() @ weight.double().T + bias
    assert ((found - exact).abs() <= allowed(n, weight) + 1e-6).all()
    gated = run("norm_linear", x, weight, bias, sums, 1e-5, activation, gated=True)
    assert torch.allclose(gated, after(found[:, : width // 2]) * found[:, width // 2 :], atol=1e-4)
    add = torch.randn(29, width)
    added = run("norm_linear", x, weight, bias, sums, 1e-5, activation, add=add)
    assert torch.allclose(added, after(found + add), atol=1e-4)
