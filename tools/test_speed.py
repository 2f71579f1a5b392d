"""Has anything become slower? `make bench` compares kernels and the host path with the reference in one run,
and the host path also with tokenising the bare texts.

A ratio may exceed the recorded one by half: machines are shared. `pytest tools/test_speed.py --record` writes
the ratios down instead, after a change that is meant, or on a processor of another kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gliclass_fast.bench import operations
from gliclass_fast.bench.timing import alternate, machine
from gliclass_fast.ops import choose_ops, compiled_kernels
from tools import host_path

RECORD = Path(__file__).parent.parent / "bench" / "results" / "speed.json"
ALLOWED = 1.5
REPEATS = 15
Pair = tuple[Callable[[], Any], Callable[[], Any]]  # A pair is (ours, the reference).


def operation(case: operations.Case) -> Pair:
    found = operations.implementations(case, "cpu", torch.float32)
    return found[choose_ops("cpu").chosen[case.operation]], found["reference"]


def host(labels: int, against: str) -> Pair:
    found = host_path.functions(labels)
    return found["gliclass-fast"], found[against]


def launch(count: int, tokens: int) -> Pair:
    found = host_path.launches(count, tokens)
    return found["gliclass-fast"], found["bare texts"]


PAIRS: dict[str, Callable[[], Pair]] = {
    **{
        case.name: partial(operation, case)
        for case in operations.cases("cpu", torch.float32)
        if choose_ops("cpu").chosen[case.operation] != "reference"
    },
    **{
        f"host path, {count} labels, to {against}": partial(host, count, against)
        for count in host_path.LABEL_COUNTS
        for against in ("gliclass", "bare texts")
    },
    **{
        f"prompts to launch, {count}x{tokens}, to bare texts": partial(launch, count, tokens)
        for count, tokens in host_path.LAUNCHED
    },
}


@torch.inference_mode()
@pytest.mark.parametrize("name", PAIRS)
def test_ratio(name: str, benchmark: Any, request: pytest.FixtureRequest) -> None:
    ours, reference = PAIRS[name]()
    times = alternate({"ours": ours, "reference": reference}, REPEATS)
    ratio = times["ours"].median / times["reference"].median
    benchmark.extra_info["ratio to the reference"] = round(ratio, 3)
    benchmark.pedantic(ours, rounds=REPEATS)
    kind = compiled_kernels()["CPU"]
    recorded = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if request.config.getoption("--record"):
        recorded = recorded if recorded.get("compiled") == kind else {"ratios": {}}
        recorded |= {"compiled": kind, "machine": machine()}
        recorded["ratios"][name] = round(ratio, 3)
        RECORD.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
        return
    if recorded["compiled"] != kind:
        pytest.skip(f"recorded with {recorded['compiled']}, this is {kind}: run with --record")
    before = recorded["ratios"][name]
    assert ratio <= ALLOWED * before, f"{ratio:.3f} of the reference's time, was {before}"
