"""int8 linear maps stay within the error that rounding allows, on every instruction set and without any."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gliclass_fast.kernels import int8
from gliclass_fast.kernels._extension import extension
from gliclass_fast.kernels.linear import ACTIVATIONS, normed
from gliclass_fast.ops import implementation
from tests.kernels.rounded import SHAPES, WAYS, Run, use


@pytest.fixture(params=WAYS)
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the reference, and the kernel on every instruction set that this processor has."""
    number = WAYS[request.param]
    if number is None:
        return Run("int8_reference", in_pairs=False)
    use(number, monkeypatch)
    return Run("int8", extension().int8_adds_pairs(number))


def test_pairs_are_bounded_where_there_is_no_vnni() -> None:
    sets = extension().instruction_sets()
    assert {name: extension().int8_adds_pairs(number) for number, (name, _) in sets.items()} == {
        name: name in ("portable", "avx2", "avx512") for name, _ in sets.values()
    }


def allowed(x: Tensor, weight: Tensor, y: Tensor, in_pairs: bool) -> Tensor:
    """Gives every element's largest error, as kernels/int8.py derives it, with that of float32 rounding."""
    step = (x.amax(1).clamp_min(0).double() - x.amin(1).clamp_max(0)) / int8.STEPS
    scale = weight.abs().amax(1).double() / int8.LIMIT
    if in_pairs:
        pairs = F.pad(weight.abs(), (0, weight.shape[1] % 2)).unflatten(1, (-1, 2)).sum(2)
        scale = torch.maximum(scale, pairs.amax(1).double() / int8.PAIR * int8.ABOVE)
    of_input = step[:, None] / 2 * weight.double().abs().sum(1)
    of_weight = scale / 2 * x.double().abs().sum(1, keepdim=True)
    both = step[:, None] * scale * x.shape[1] / 4
    return of_input + of_weight + both + 1e-6 * y.abs()


@pytest.mark.parametrize("shape", SHAPES)
def test_rounding_alone_separates_it_from_the_exact_product(shape: tuple[int, int, int], run: Run) -> None:
    rows, depth, width = shape
    x, weight, bias = torch.randn(rows, depth), torch.randn(width, depth), torch.randn(width)
    x[:, 0] *= 50  # one column far beyond the others
    weight[1:3] *= torch.tensor([[1e-4], [1e3]])
    for inputs in (x, x.abs(), -x.abs(), F.gelu(x)):
        found = run("linear", inputs, weight, bias).double()
        exact = inputs.double() @ weight.double().T + bias
        assert ((found - exact).abs() <= allowed(inputs, weight, exact, run.in_pairs)).all()
        added = run("linear_add", inputs, weight, bias, torch.ones(rows, width)).double()
        assert torch.allclose(added, found + 1, rtol=1e-5, atol=1e-4)


def test_both_ends_of_a_row_may_lie_between_two_steps(run: Run) -> None:
    """One of them is rounded away from 0 and the other towards it, and no value wraps around."""
    lowest = torch.arange(0.5, 254)[:, None]
    ends = torch.cat((-lowest, int8.STEPS - lowest), 1)
    for size in (1.0, 1e-30, 0.7, 1e33):
        found = run("linear", size * ends, torch.eye(2), None)
        assert ((found / size - ends).abs() <= 0.501).all()


def test_sums_of_whole_numbers_are_exact(run: Run) -> None:
    """Rows from -127 to 127, and weights that reach 127, have a step of one, and rows of 127 have one half:
    nothing is rounded, and nothing may saturate."""
    for rows, depth, width in ((1, 4, 8), (5, 33, 38), (20, 1021, 50), (33, 64, 48)):
        x, weight = torch.randint(-127, 128, (rows, depth)), torch.randint(-127, 128, (width, depth))
        weight[:, 1::2] = weight[:, 1::2].sign() * (
            127 - weight[:, : depth // 2 * 2 : 2].abs()
        )  # pairs of 127
        x[:, 0], x[:, 1], weight[:, depth // 4 * 2], weight[:, depth // 4 * 2 + 1] = 127, -127, -127, 0
        x[0] = 127
        found = run("linear", x.float(), weight.float(), None)
        assert torch.equal(found, (x @ weight.T).float())


@pytest.mark.parametrize("pair", [(1.0, 1.0), (-1.0, -1.0), (127.0, 1.0), (0.0, -127.0), (65.6, 62.4)])
def test_the_largest_values_do_not_saturate(pair: tuple[float, float], run: Run) -> None:
    """The weights of these pairs are 128 together, or 127 alone; without that bound, the larger is 127."""
    weight = torch.tensor(pair).repeat(96, 384)
    values, scale = int8.rounded_weight(weight, run.in_pairs)
    if run.in_pairs:
        assert int(values.unflatten(1, (-1, 2)).abs().sum(2).amax()) == (127 if 0 in pair else 128)
    else:
        assert int(values.abs().amax()) == 127
    for sign in (1.0, -1.0):
        x = torch.full((17, 768), 3.0 * sign)
        expected = 3 * sign * (values * scale).sum(1).expand(17, -1)
        assert torch.allclose(run("linear", x, weight, None), expected)
        assert torch.allclose(expected, 3 * sign * weight.sum(1), rtol=1e-2)


def test_no_pair_of_weights_is_more_than_processors_add_in_16_bits() -> None:
    for width, size in itertools.product((63, 64), (1e-30, 1.0, 3e37)):
        numbers = (torch.randn(400, width), torch.rand(400, width), torch.randint(-9, 10, (400, width)) / 2)
        weights = torch.cat(numbers) * size
        values, scale = int8.rounded_weight(weights, in_pairs=True)
        pairs = F.pad(values.int().abs(), (0, width % 2)).unflatten(1, (-1, 2)).sum(2).amax(1)
        assert int(pairs.min()) >= 126 and int(pairs.max()) == int8.PAIR
        assert int(values.abs().max()) <= int8.LIMIT
        assert ((values * scale - weights).abs() <= scale * 0.5001).all()
    for bad in (math.nan, math.inf, -math.inf):
        _, scale = int8.rounded_weight(torch.tensor([[1.0, 2.0], [1.0, bad]]), in_pairs=True)
        assert scale.isfinite().flatten().tolist() == [True, False]


def test_rows_of_zeros_stay_zeros(run: Run) -> None:
    weight = torch.randn(8, 16)
    weight[3] = 0
    assert torch.equal(run("linear", torch.zeros(2, 16), weight, None), torch.zeros(2, 8))
    assert run("linear", torch.ones(1, 16), weight, None)[0, 3] == 0
    normed = run("norm_linear", torch.ones(2, 16), weight, torch.ones(8), weight.sum(1), 1e-5)
    assert torch.allclose(normed, torch.ones(2, 8), atol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("width", [24, 96])  # halves that fill no vectors, or do
def test_what_comes_before_and_after_the_product(activation: str, rms: bool, width: int, run: Run) -> None:
    """The kernel's norm differs from torch's in the last bits, which moves a few values by a step."""
    x, weight, bias = 3 * torch.randn(29, 50) + 1, torch.randn(width, 50), torch.randn(width)
    product = run("linear", x, weight, bias)
    after = ACTIVATIONS[activation]
    assert torch.allclose(run("linear", x, weight, bias, activation), after(product), atol=1e-5)
    sums, n = None if rms else weight.sum(1), normed(x, 1e-5, rms)
    plain = run("linear", n, weight, bias)
    low, high = n.aminmax(dim=1, keepdim=True)
    step = (high - low) / int8.STEPS * weight.abs().amax()
    found = run("norm_linear", x, weight, bias, sums, 1e-5)
    assert ((found - plain).abs() <= 2 * step).all() and (found - plain).abs().median() < 1e-5
    gated = run("norm_linear", x, weight, bias, sums, 1e-5, activation, gated=True)
    assert torch.allclose(gated, after(found[:, : width // 2]) * found[:, width // 2 :], atol=1e-4)
    add = torch.randn(29, width)
    added = run("norm_linear", x, weight, bias, sums, 1e-5, activation, add=add)
    assert torch.allclose(added, after(found + add), atol=1e-4)


def test_what_the_kernel_cannot_read_raises() -> None:
    pack, run = implementation("pack_linear", "int8"), implementation("linear_add", "int8")
    packed, x, residual = pack(torch.randn(9, 8)), torch.randn(3, 8), torch.randn(3, 9)
    expected = run(x, packed, None, residual)
    assert torch.equal(run(x.t().contiguous().t(), packed, None, residual.t().contiguous().t()), expected)
    for wrong, message in (
        ((torch.randn(3, 17), packed, None, residual), "rows of 17 values do not fit"),
        ((x, torch.randn(9, 8), None, residual), "do not fit 72 values of torch.float32"),
        ((x, packed, torch.ones(3), residual), r"needs float32 \[9\], got torch.float32 \[3\]"),
        ((x, packed, None, residual.double()), r"needs float32 \[3, 9\], got torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*wrong)
    with pytest.raises(ValueError, match="at most 65536 inputs, got 65537"):
        pack(torch.zeros(1, 65537))
