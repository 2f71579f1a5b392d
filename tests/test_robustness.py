"""Random requests meet only documented errors and finite scores, and every text scores as it does alone.

`python -m tools.fuzz` puts the same requests to the same pipelines for as long as it is asked to.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.fuzz import together
from tools.fuzzing import check, pipelines
from tools.fuzzing.kinds import KINDS, pipeline


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(number=st.integers(0, 10**9))
def test_random_requests(number: int) -> None:
    kind, request, shared, _ = pipelines.draw(0, number)
    with ThreadPoolExecutor(pipelines.CALLERS) as pool:
        check.check(kind, request, pool.map if shared else map)


def test_requests_name_every_kind_and_come_again() -> None:
    drawn = [pipelines.draw(1, number) for number in range(300)]
    assert {kind for kind, *_ in drawn} == set(KINDS)
    assert repr(drawn) == repr([pipelines.draw(1, number) for number in range(300)])  # NaN is not NaN
    assert len({len(request["texts"]) for _, request, *_ in drawn}) == 3


def changed(found: Any, **values: Any) -> Any:
    return [[{**each, **values} for each in own] for own in found]


WRONG: dict[str, tuple[Any, str]] = {
    "NaN": (lambda found: changed(found, score=float("nan")), "a score is nan"),
    "batch": (lambda found: changed(found, score=0.1 * len(found)), "in its batch"),
    "label": (lambda found: changed(found, label="other"), "not given"),
    "lost": (lambda found: found[:1], "1 results of 2 texts"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {
        "texts": ["a film", "a bank"],
        "labels": ["film", "bank"],
        "classification_type": "multi-label",
    }
    spoil, message = WRONG[name]
    original = type(pipeline("ModernBERT")).__call__

    def spoilt(self: Any, *args: Any, **kwargs: Any) -> Any:
        return spoil(original(self, *args, **kwargs))

    assert check.check("ModernBERT", request) == 3
    monkeypatch.setattr(type(pipeline("ModernBERT")), "__call__", spoilt)
    with pytest.raises(check.Fault, match=message):
        check.check("ModernBERT", request)


def test_results_of_processes_add_up() -> None:
    parts = [
        {"requests": 2, "by_kind": {"a": 2}, "faults": [1]},
        {"requests": 3, "by_kind": {"b": 3}, "faults": []},
    ]
    assert together(parts) == {"requests": 5, "by_kind": {"a": 2, "b": 3}, "faults": [1]}
