"""A process does not grow with the lengths of text that it meets, nor with the threads that call it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from gliclass_fast.bench import memory
from gliclass_fast.kernels import compiled_int8, linear
from gliclass_fast.kernels._onednn_pieces import PIECES, STEP, pieces


@pytest.mark.slow
def test_many_lengths_and_threads_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN kept 206 MiB of twice as many counted calls on an AMD EPYC with AVX2."""
    monkeypatch.setattr(memory, "CALLERS", (2,))
    monkeypatch.setattr(memory, "ENGINES", {"gliclass-fast": memory.ENGINES["gliclass-fast"]})
    [row] = memory.measure(calls=40)
    assert row["grown by, MiB"] < 50, row


@pytest.mark.slow
def test_what_it_costs_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LENGTHS", (1, 9))
    given, wanted = [], linear.pieces
    monkeypatch.setattr(linear, "pieces", lambda rows: given.append(rows) or wanted(rows))
    times = memory.cost(repeats=2)
    assert [each["runs"] for each in times.values()] == [2, 2, 2]
    calls = 4 * len(memory.LENGTHS)  # of oneDNN in pieces: with the warm-up, four of each length
    assert given and len(given) % calls == 0


@pytest.mark.slow
def test_gelu_is_not_compiled_per_length() -> None:
    program = "import torch; from gliclass_fast.kernels.linear import ACTIVATIONS\n"
    program += "torch.backends.mkldnn.set_flags(True)\nwith torch.backends.mkldnn.verbose(1):\n"
    program += "    [ACTIVATIONS[name](torch.randn(rows, 32)) for name in ACTIVATIONS for rows in (1, 2, 11)]"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ",exec," not in done.stdout


def lengths() -> Iterator[int]:
    return iter((*range(300), 511, 512, 1000, 1024, 1025, 4097, 16384))


def test_pieces_hold_every_row_and_have_few_sizes() -> None:
    for rows in lengths():
        sizes = pieces(rows)
        assert 0 <= sum(sizes) - rows <= STEP and set(sizes) <= set(PIECES)
        assert sizes == sorted(sizes, reverse=True)
    assert len(PIECES) == 11


@pytest.mark.parametrize("backend", ["int8", "onednn"])
def test_products_in_pieces_are_the_products_of_the_rows(backend: str) -> None:
    weight, bias, x = torch.randn(24, 40), torch.randn(24), torch.randn(1300, 40)
    module = compiled_int8 if backend == "int8" else linear
    packed, run = getattr(module, f"pack_{backend}")(weight), getattr(module, f"linear_{backend}")
    whole = run(x, packed, bias)
    for rows in (0, 1, 16, 17, 129, 1300):
        assert run(x[:rows], packed, bias).shape == (rows, 24)
        assert torch.allclose(run(x[:rows], packed, bias), whole[:rows], rtol=0, atol=1e-5)
