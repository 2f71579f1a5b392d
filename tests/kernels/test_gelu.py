"""GELU of 16-bit inputs, which Triton takes from a polynomial, is as good as the exact form everywhere."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from gliclass_fast.kernels.linear import activated

BLOCK = 4096


@triton.jit
def _gelu_kernel(x, out, count, BLOCK: tl.constexpr, EXACT: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + place, mask=place < count, other=0.0)
    tl.store(out + place, activated(values, "gelu", EXACT), mask=place < count)


def gelu(x: Tensor, exact: bool = False) -> Tensor:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = x.to(device)
    out = torch.zeros_like(x)
    _gelu_kernel[(triton.cdiv(len(x), BLOCK),)](x, out, len(x), BLOCK=BLOCK, EXACT=exact)
    return out.cpu()


def values() -> Tensor:
    """Gives a dense grid where GELU is neither 0 nor x, and some values of every exponent, of both signs."""
    powers = torch.outer(torch.linspace(1, 2, 65)[:-1], 2.0 ** torch.arange(-149, 128)).flatten()
    return torch.cat(
        (torch.linspace(-17, 17, 1_000_001), powers, -powers, torch.zeros(2).copysign_(-powers[:2]))
    )


def normal_distribution(x: Tensor) -> Tensor:
    return torch.special.ndtr(x.double())


def test_the_distribution_is_wrong_by_less_than_half_of_5e_7() -> None:
    """gelu(x) / x is the distribution, (1 + erf(x / sqrt(2))) / 2: such an erf is wrong by less than 5e-7."""
    x = values()
    x = x[x.abs() > 1e-30]  # below, quotients of what float32 holds with fewer bits
    rounding = torch.finfo(torch.float32).eps
    error = (gelu(x).double() / x.double() - normal_distribution(x)).abs()
    assert error.max() < 2.5e-7 + rounding


def test_the_error_is_far_below_16_bit_rounding() -> None:
    x = values()
    exact = x.double() * normal_distribution(x)
    error = (gelu(x).double() - exact).abs()
    assert (error <= 1e-6 + torch.finfo(torch.float32).eps * exact.abs()).all()
    near = (x.abs() <= 3) & (x.abs() > 1e-30)
    assert (error[near] / exact[near].abs()).max() < torch.finfo(torch.float16).eps / 8


@pytest.mark.parametrize("exact", [False, True])
def test_what_has_no_distribution(exact: bool) -> None:
    large = torch.tensor([0.0, -0.0, 1e30, math.inf, math.nan])
    expected = torch.tensor([0.0, 0.0, 1e30, math.inf, math.nan])
    assert torch.allclose(gelu(large, exact), expected, rtol=0, atol=0, equal_nan=True)
    assert gelu(torch.tensor([-1e30]), exact) == 0
    if not exact:  # the limit, where torch gives -inf * 0
        assert gelu(torch.tensor([-math.inf])) == 0


def test_float32_keeps_erf() -> None:
    x = torch.linspace(-6, 6, 10_001)
    exact = x.double() * normal_distribution(x)
    assert (gelu(x, exact=True).double() - exact).abs().max() < 4 * torch.finfo(torch.float32).eps
    assert not torch.equal(gelu(x), gelu(x, exact=True))
