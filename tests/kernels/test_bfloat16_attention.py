"""Attention whose factors are rounded to bfloat16, on every instruction set, also where it is emulated."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._extension import extension
from gliclass_fast.ops import IMPLEMENTATIONS, implementation
from tests.accuracy import assert_accurate
from tests.kernels import cases
from tests.kernels.adapter_cases import adapted_attention

SETS = extension().instruction_sets()
BACKEND = "cpp_bfloat16"
NAMES = [name for name, (operation, _) in cases.CASES.items() if BACKEND in IMPLEMENTATIONS[operation]]
LENGTHS = [300, 7, 129]
# odd widths and those that fill no vector; keys from odd places on; steps of an odd number of keys
BUILDS: dict[str, Any] = {
    "plain": partial(cases.attention, width=64),
    "5 wide": partial(cases.attention, width=5),
    "window": partial(cases.attention, window=31, width=20),
    "biased": partial(cases.attention, biased=True, width=40),
    "disentangled": partial(cases.disentangled_attention, width=64),
    "disentangled, 5 wide": partial(cases.disentangled_attention, width=5, reach=400),
    "content-to-position": partial(cases.disentangled_attention, width=20, without="p2c"),
    "position-to-content": partial(cases.disentangled_attention, width=20, without="c2p"),
    "adapted": partial(adapted_attention, slots=[2, 0, 1], width=20),
    **{
        f"adapted, {width} wide": partial(adapted_attention, slots=[0, 1, 2], width=width) for width in (1, 2)
    },
    "adapted, 5 wide": partial(adapted_attention, slots=[1, -1, 2], width=5, without="p2c"),
}


def run(build: Any, arguments: tuple[Any, ...], backend: str) -> torch.Tensor:
    operation = build.func.__name__
    found: torch.Tensor = implementation(operation, backend)(*cases.packed(operation, backend, arguments))
    return found


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_nothing_is_lost_where_bfloat16_holds_all_factors(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers have no more than 8 bits here, and weights are powers of two."""
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    monkeypatch.setattr(torch, "randn", lambda *shape: torch.randint(-1, 2, shape).float())
    for kind, build in BUILDS.items():
        (qkv, seen, _, *rest), _ = build(torch.float32, lengths=LENGTHS)
        if kind == "biased":
            rest[0].distance_bias.mul_(math.log(2))
        arguments = qkv, seen, math.log(2), *rest
        found, exact = (run(build, arguments, backend) for backend in (BACKEND, "cpp"))
        assert torch.allclose(found, exact, rtol=1e-5, atol=1e-5), kind


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_the_error_is_at_most_twice_that_of_the_reference(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    for name in NAMES:
        cases.check(name, BACKEND, torch.float32, rounding=torch.bfloat16)
    for kind, build in BUILDS.items():
        arguments, slow = build(torch.float32, lengths=LENGTHS)
        found = run(build, arguments, BACKEND)
        assert_accurate(found, slow(torch.float64), slow(torch.bfloat16))
        assert not torch.allclose(found, run(build, arguments, "cpp"), rtol=1e-5, atol=1e-5), kind
