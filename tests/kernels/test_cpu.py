"""The compiled CPU kernel holds on every instruction set, under sanitizers, with threads and in PyTorch."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from gliclass_fast.kernels import (
    _buffers,
    _extension,
    compiled_attention,
    compiled_linear,
    compiled_norm,
    compiled_pairs,
)
from gliclass_fast.kernels._extension import extension
from gliclass_fast.kernels.linear import ACTIVATIONS
from gliclass_fast.ops import IMPLEMENTATIONS, DistanceTables, Positions, Sequences, implementation
from tests.accuracy import assert_accurate
from tests.kernels import cases
from tests.kernels.causal_cases import causal_attention
from tests.kernels.layouts import cumulative, sequences
from tools.fuzzing import sanitized

ROOT = Path(__file__).parent.parent.parent
NAMES = [name for name, (operation, _) in cases.CASES.items() if "cpp" in IMPLEMENTATIONS[operation]]
WIDTHS = (20, 5, 64)
SETS = extension().instruction_sets()


@pytest.mark.slow
@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_every_instruction_set(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    for name in NAMES:
        cases.check(name, "cpp", torch.float32)
    for width in WIDTHS:  # several steps, and widths that are no multiple of a vector
        for build in (cases.disentangled_attention, partial(cases.attention, window=150, biased=True)):
            operation = getattr(build, "func", build).__name__
            arguments, slow = build(torch.float32, lengths=[300, 513], width=width)
            out = implementation(operation, "cpp")(*cases.packed(operation, "cpp", arguments))
            assert_accurate(out, slow(torch.float64), slow(torch.float32))
    # tiles take their keys together, of which the rows of the first see fewer
    for group in (1, 2):
        arguments, slow = causal_attention(torch.float32, group, kept=[50, 3], lengths=[300, 129])
        out = implementation("causal_attention", "cpp")(*arguments)
        assert_accurate(out, slow(torch.float64), slow(torch.float32))


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_extreme_values(number: int, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinities, NaN, zeros and values near the ends of float32 give what torch gives of each in float64.

    Its float32 depends on the processor: GELU of infinity is NaN where it computes in Intel's library.
    """
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    ends = torch.tensor(
        [math.inf, math.nan, 0.0, 3e38, 1e30, 1e5, 88.8, 17.0, 16.0, 15.9, 13.0, 1e-30, 1e-40]
    )
    values = torch.cat((ends, -ends, torch.linspace(-9, 9, 99)))  # no multiple of any vector's lanes
    x = torch.zeros(9, 5)
    weight = compiled_linear.pack_cpp(torch.ones(len(values), 5))
    low, exact = ACTIVATIONS[activation](values), ACTIVATIONS[activation](values.double())
    finite = exact.isfinite()
    allowed = 2 * (low - exact).abs().where(low.isfinite(), 0)
    allowed += torch.finfo(torch.float32).eps * (exact.abs() + 1)
    for found in compiled_linear.linear_cpp(x, weight, values, activation):
        assert torch.allclose(found[~finite].double(), exact[~finite], rtol=0, atol=0, equal_nan=True)
        assert ((found - exact).abs() <= allowed)[finite].all()
    added = compiled_linear.linear_add_cpp(x, weight, torch.zeros_like(values), values.repeat(9, 1))
    assert torch.allclose(added, values.expand(9, -1), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_scores_that_are_far_apart(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights may be as small as they like, and a row whose scores are all -infinity is NaN."""
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    qkv, scale, lost = torch.randn(300, 3, 2, 20), 9.0, 7
    qkv[:, 1].abs_().neg_()
    qkv[lost, 0] = math.inf

    def slow(precision: torch.dtype) -> torch.Tensor:
        q, k, v = qkv.to(precision).unbind(1)
        weights = (scale * torch.einsum("ihd,jhd->hij", q, k)).softmax(-1)
        return torch.einsum("hij,jhd->ihd", weights, v).flatten(1)

    found, exact, low = (
        compiled_attention.attention_cpp(qkv, sequences(cumulative([300])), scale),
        slow(torch.float64),
        slow(torch.float32),
    )
    assert found[lost].isnan().all()
    assert exact[lost].isnan().all()
    others = torch.arange(300) != lost
    assert_accurate(found[others], exact[others], low[others])


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
def test_a_scale_of_zero_weighs_all_keys_alike(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    qkv = torch.randn(13, 3, 2, 16)
    out = compiled_attention.attention_cpp(qkv, sequences(cumulative([13])), 0.0)
    torch.testing.assert_close(out, qkv[:, 2].mean(0).flatten().expand(13, -1))


def test_the_fastest_instruction_set_is_used() -> None:
    assert _extension.instruction_set() == (min(SETS), max(lanes for _, lanes in SETS.values()))


SANITIZED = """
import sys
from tools.fuzzing import sanitized
sanitized.load(sys.argv[1])
import torch
from tests.kernels import test_bfloat16, test_bfloat16_attention, test_cpu, test_feed_forward, test_int8
from tests.kernels import test_rounded, test_self_attention
from gliclass_fast.ops import ROUNDED
import pytest
assert test_cpu.extension().__file__ == sys.argv[1]
for number in test_cpu.SETS:
    with pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        test_cpu.test_every_instruction_set(number, patch)
        test_bfloat16_attention.test_the_error_is_at_most_twice_that_of_the_reference(number, patch)
        for rounding in (None, *ROUNDED):
            for layers in (test_feed_forward, test_self_attention):
                layers.test_it_is_what_its_operations_are(number, rounding, patch)
        run = test_rounded.Run("int8", test_cpu.extension().int8_adds_pairs(number))
        test_int8.test_sums_of_whole_numbers_are_exact(run)
        bfloat16 = test_bfloat16.BFLOAT16
        for each in (run, bfloat16):
            test_rounded.test_threads_and_other_rows_change_nothing(each)
        test_bfloat16.test_small_whole_numbers_are_exact(bfloat16)
        for width in (24, 96):
            test_bfloat16.test_what_comes_before_and_after_the_product("gelu", True, width, bfloat16)
            test_int8.test_what_comes_before_and_after_the_product("gelu", True, width, run)
from random import Random
from tools.fuzzing import kernels
for number in range(60):
    operation, wrong = kernels.run(Random(f"0/{number}"), test_cpu.SETS)
    assert wrong is None, (number, operation, wrong)
print("clean")
"""


@pytest.mark.slow
def test_no_access_out_of_bounds_and_nothing_undefined(tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviorSanitizer are built in, and would end the process."""
    command = [sys.executable, "-c", SANITIZED, str(sanitized.build(tmp_path))]
    environment = sanitized.environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.stdout.strip() == "clean", done.stderr


def disentangled() -> tuple[torch.Tensor, Sequences, float, DistanceTables]:
    arguments, _ = cases.CASES["disentangled attention, reach 40"][1](torch.float32)
    qkv, sequences, scale, tables = cases.packed("disentangled_attention", "cpp", arguments)
    return qkv, sequences, scale, tables


@pytest.mark.usefixtures("kept_threads")
def test_threads_change_nothing() -> None:
    arguments, (long, *_) = disentangled(), cases.disentangled_attention(torch.float32, lengths=[700, 40])
    x, weight = torch.randn(300, 40), compiled_linear.pack_cpp(torch.randn(90, 40))
    heads = (torch.randn(90, 9, 64)[:, 2:], torch.randn(7, 64), 1e-6, *torch.randn(2, 90, 32))
    long = cases.packed("disentangled_attention", "cpp", long)
    alone = sequences(cumulative([70])).causal()  # With one tile, heads take their keys together or not.
    shared = (torch.randn(70, 8, 16), *torch.randn(2, 70, 2, 16), alone)
    outs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        attended = compiled_attention.disentangled_attention_cpp(*arguments)
        together = compiled_attention.disentangled_attention_cpp(*long)  # as many tiles as threads allow
        normed = compiled_norm.normed_cpp(x.repeat(9, 1), 1e-5, False)
        turned = compiled_norm.head_norm_cpp(*heads)
        causal = compiled_attention.causal_attention_cpp(*shared)
        outs.append((attended, together, compiled_linear.linear_cpp(x, weight, None), normed, turned, causal))
    for one, *others in zip(*outs, strict=True):
        assert all(torch.equal(one, other) for other in others)


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("gated", (False, True))
@pytest.mark.parametrize("depth", (100, 384))  # steps of the product end within both
def test_rows_are_the_same_in_every_block(depth: int, gated: bool) -> None:
    plain = torch.randn(192, depth)
    x, weight = torch.randn(257, depth), compiled_linear.pack_cpp(plain)
    alone = torch.cat([compiled_linear.map_rows(row[None], weight, gated=gated) for row in x])
    product = x.double() @ plain.double().T
    slow = product[:, :96] * product[:, 96:] if gated else product
    torch.testing.assert_close(alone.double(), slow, atol=1e-3, rtol=1e-4)
    for rows in (7, 63, 65, 127, 128, 129, 257):
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = compiled_linear.map_rows(x[:rows], weight, gated=gated)
            assert torch.equal(found, alone[:rows]), (rows, threads)


def test_a_place_outside_of_a_table() -> None:
    table, ones = torch.randn(7, 16), torch.ones(16)
    for places in ([3, 7], [-1, 0]):
        with pytest.raises(IndexError, match="no row"):
            compiled_norm.embedding_norm_cpp(
                [(table, torch.tensor(places, dtype=torch.int32))], ones, None, 1e-5
            )
    with pytest.raises(ValueError, match="int32"):
        compiled_norm.embedding_norm_cpp([(table, torch.tensor([1]))], ones, None, 1e-5)
    with pytest.raises(ValueError, match="16"):
        compiled_norm.add_norm_cpp(table, torch.randn(7, 15), ones, None, 1e-5)
    with pytest.raises(ValueError, match="rows"):
        compiled_norm.add_norm_cpp(table, torch.randn(6, 16), ones, None, 1e-5)


def test_owners_outside_of_the_texts() -> None:
    text, labels = torch.randn(2, 16), torch.randn(3, 16)
    for operation in (compiled_pairs.pair_add_cpp, compiled_pairs.pair_dot_cpp):
        for owner in ([0, 1, 2], [0, -1, 1]):
            with pytest.raises(IndexError, match="no row"):
                operation(text, labels, torch.tensor(owner, dtype=torch.int32))
        for wrong, error in (
            ((text, labels, torch.zeros(3)), "int32"),
            ((text, labels, torch.zeros(2, dtype=torch.int32)), "[3]"),
            ((text[:, :15], labels, torch.zeros(3, dtype=torch.int32)), "[*, 16]"),
        ):
            with pytest.raises(ValueError, match=re.escape(error)):
                operation(*wrong)


def test_heads_of_another_form() -> None:
    x, weight, angles = torch.randn(5, 3, 16), torch.randn(3, 16), torch.randn(5, 8)
    for wrong, error in (
        ((x, weight[:2], 0.1, angles, angles), "[3, 16]"),
        ((x, weight, 0.1, angles[:4], angles), "[5, 8]"),
        ((x, weight, 0.1, angles, angles.double()), "float64"),
        ((x.mT.contiguous().mT, weight, 0.1, angles, angles), "one after the other"),
        ((x[:, :, :7], weight[:, :7], 0.1, angles[:, :3], angles[:, :3]), "even width"),
    ):
        with pytest.raises(ValueError, match=re.escape(error)):
            compiled_norm.head_norm_cpp(*wrong)


def test_two_threads_of_python() -> None:
    arguments = [disentangled() for _ in range(8)]
    alone = [compiled_attention.disentangled_attention_cpp(*each) for each in arguments]
    with ThreadPoolExecutor(2) as pool:
        together = list(
            pool.map(lambda each: compiled_attention.disentangled_attention_cpp(*each), arguments * 4)
        )
    assert all(torch.equal(one, alone[number % 8]) for number, one in enumerate(together))


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
@pytest.mark.parametrize(("part", "value"), [(0, float("nan")), (0, float("inf")), (1, float("nan"))])
def test_what_is_not_finite_shows(
    number: int, part: int, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad value in q spoils its row, one in k every row of its sequence, as in the reference."""
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    (qkv, *rest), _ = cases.attention(torch.float32)  # of lengths 1, 17, 63 and 130
    qkv = qkv.nan_to_num()
    qkv[20, part, 0, 3] = value
    finite = compiled_attention.attention_cpp(qkv, *rest)[:, : qkv.shape[3]].isfinite().all(1)
    spoiled = slice(20, 21) if part == 0 else slice(18, 81)
    assert not finite[spoiled].any() and finite.sum() == len(finite) - (spoiled.stop - spoiled.start)


@pytest.mark.parametrize("least", [1, 1 << 20])  # bytes, of memory that was used before
def test_the_default_dtype_and_device_do_not_matter(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_buffers, "_LEAST", least)
    arguments = disentangled()
    expected = compiled_attention.disentangled_attention_cpp(*arguments)
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            found = compiled_attention.disentangled_attention_cpp(*arguments)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype is torch.float32 and torch.equal(found, expected)


def strided(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a view of equal values of which no two lie side by side."""
    wide = torch.full((*tensor.shape, 2), math.nan, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


@pytest.mark.parametrize("part", ["x", "bias", "residual"])
@pytest.mark.parametrize("shape", [(1, 5, 3), (9, 33, 24), (1, 1, 1)])
def test_linear_maps_of_strided_tensors(part: str, shape: tuple[int, int, int]) -> None:
    rows, depth, width = shape
    given = {"x": torch.randn(rows, depth), "bias": torch.randn(width), "residual": torch.randn(rows, width)}
    weight = compiled_linear.pack_cpp(torch.randn(width, depth))
    x, bias, residual = given.values()
    found, added = compiled_linear.linear_cpp, compiled_linear.linear_add_cpp
    expected = found(x, weight, bias, "relu"), added(x, weight, bias, residual)
    given[part] = strided(given[part])
    x, bias, residual = given.values()
    assert torch.equal(found(x, weight, bias, "relu"), expected[0])
    assert torch.equal(added(x, weight, bias, residual), expected[1])


def test_packing_takes_strided_weights() -> None:
    for shape in ((24, 33), (7, 5), (1, 1), (16, 1)):
        weight = torch.randn(shape)
        expected = compiled_linear.pack_cpp(weight)
        for view in (strided(weight), weight.t().contiguous().t()):
            assert torch.equal(compiled_linear.pack_cpp(view), expected)


def test_packed_values_that_are_strided_raise() -> None:
    """What only the engine makes is refused, where it is not as it was made."""
    qkv, sequences, scale, tables = disentangled()
    with pytest.raises(ValueError, match="contiguous"):
        compiled_linear.linear_cpp(torch.ones(2, 8), strided(torch.ones(8, 8)), None)
    for name in ("key_table", "query_table"):
        with pytest.raises(ValueError, match="contiguous"):
            other = replace(tables, **{name: strided(getattr(tables, name))})
            compiled_attention.disentangled_attention_cpp(qkv, sequences, scale, other)
    width = qkv.shape[3]
    tiles = torch.zeros(2 * len(sequences.tiles), 4, dtype=torch.int32)[::2].copy_(sequences.tiles)
    angles = strided(torch.ones(200, width // 2))
    for other, positions in (
        (replace(sequences, tiles=tiles), Positions()),
        (sequences, Positions((angles, angles))),
        (sequences, Positions(distance_bias=strided(torch.ones(qkv.shape[2], 9)))),
    ):
        with pytest.raises(ValueError, match="contiguous"):
            compiled_attention.attention_cpp(qkv, other, scale, positions)
    with pytest.raises(ValueError, match="on the cpu device"):
        compiled_linear.linear_cpp(torch.ones(2, 8), torch.ones(8, 8, device="meta"), None)


def test_what_the_kernel_cannot_read_raises() -> None:
    qkv, sequences, scale, tables = disentangled()
    with pytest.raises(ValueError, match="needs float32, got"):
        compiled_attention.disentangled_attention_cpp(qkv.half(), sequences, scale, tables)
    with pytest.raises(ValueError, match="rows of q, k and v must be contiguous"):
        compiled_attention.attention_cpp(qkv.transpose(2, 3), sequences, scale)
    with pytest.raises(ValueError, match="work list"):
        compiled_attention.attention_cpp(qkv, replace(sequences, tiles=sequences.tiles.long()), scale)
    with pytest.raises(ValueError, match="work list of 128 rows per tile"):
        compiled_attention.attention_cpp(qkv, replace(sequences, tiles=sequences.tiles // 2), scale)
    with pytest.raises(ValueError, match="work list"):
        compiled_attention.attention_cpp(qkv, replace(sequences, tiles=sequences.tiles[:0]), scale)
    with pytest.raises(ValueError, match="as `pack_distances_cpp` returned them"):
        assert tables.key_table is not None
        narrow = replace(tables, key_table=tables.key_table[..., :1].contiguous())
        compiled_attention.disentangled_attention_cpp(qkv, sequences, scale, narrow)
    with pytest.raises(ValueError, match="rotary tables"):
        angles = torch.ones(200, 24)
        compiled_attention.attention_cpp(qkv, sequences, scale, Positions((angles, angles)))
