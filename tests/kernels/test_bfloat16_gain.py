"""bfloat16 is chosen by short measurements, made once and only where the processor multiplies it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from gliclass_fast.kernels import _bfloat16_gain, _extension
from gliclass_fast.kernels._extension import extension, multiplies_bfloat16
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.ops import ROUNDED, choose_ops

BACKEND = "cpp_bfloat16"
SETS = extension().instruction_sets()
ATTENTION = ("attention", "pack_distances", "disentangled_attention", "adapted_attention")
QUESTIONS: dict[str, Callable[[], bool]] = {
    "maps": lambda: _bfloat16_gain.linear_is_faster_in_bfloat16(8, 16),
    "attention": _bfloat16_gain.attention_is_faster_in_bfloat16,
}


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("gain", [0.5, 1.1, 1.3])
@pytest.mark.parametrize("what", QUESTIONS)
def test_it_must_be_faster_by_a_fifth(what: str, gain: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads would take a part of the work, and another one every time."""
    torch.set_num_threads(2)
    now, runs = [0.0], [0]

    def taking(seconds: float) -> Callable[..., None]:
        def run(*_: object, bfloat16: bool = False) -> None:
            assert thread_count() == 1
            now[0] += 1.0 if bfloat16 else seconds
            runs[0] += 1

        return run

    monkeypatch.setattr(_bfloat16_gain, "linear_cpp", taking(gain))
    monkeypatch.setattr(_bfloat16_gain, "linear_bfloat16", taking(1.0))
    monkeypatch.setattr(_bfloat16_gain, "attention_cpp", taking(gain))
    monkeypatch.setattr(_bfloat16_gain, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(_bfloat16_gain, "_gains", {})
    monkeypatch.setattr(_bfloat16_gain, "multiplies_bfloat16", lambda: True)
    assert [QUESTIONS[what]() for _ in range(2)] == [gain > 1.2] * 2
    assert runs[0] == 2 * _bfloat16_gain._REPEATS and thread_count() == 2
    monkeypatch.setattr(_bfloat16_gain, "multiplies_bfloat16", lambda: False)
    assert not QUESTIONS[what]()


@pytest.mark.parametrize("number", SETS)
def test_what_is_measured_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    for pair in (_bfloat16_gain._maps(40, 64), _bfloat16_gain._attentions()):
        assert 0 < _bfloat16_gain._gain(*pair) < float("inf")


@pytest.mark.parametrize("number", SETS, ids=[name for name, _ in SETS.values()])
@pytest.mark.parametrize("rounding", ROUNDED)
@pytest.mark.parametrize("gain", [0.5, 1.5])
def test_attention_rounds_where_that_is_faster(
    gain: float, rounding: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that is asked for by name is not measured, but needs the instructions."""
    monkeypatch.setattr(_extension, "instruction_set", lambda: (number, SETS[number][1]))
    monkeypatch.setattr(_bfloat16_gain, "_gains", {"attention": gain})
    chosen = choose_ops("cpu", rounding=rounding).chosen
    rounds = gain > 1 and multiplies_bfloat16()
    assert {chosen[each] for each in ATTENTION} == {BACKEND if rounds else "cpp"}
    assert chosen["cross_attention"] == chosen["causal_attention"] == "cpp"
    assert chosen["linear"] == chosen["bind_self_attention"] == rounding
    if multiplies_bfloat16():
        assert choose_ops("cpu", only=BACKEND).chosen["attention"] == BACKEND
    else:
        with pytest.raises(ValueError, match="no instructions that multiply bfloat16"):
            choose_ops("cpu", only=BACKEND)
