"""What a second thread gains, and what a busy process beside it costs: `--preset threads`, on the CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from gliclass_fast.bench import cases, peers
from gliclass_fast.bench.contenders import Contender, Engine, Setting
from gliclass_fast.bench.timing import alternate, as_record

CASES = (cases.Case("1x64", (64,)), cases.Case("8x256", (256,) * 8))
PEER = "ONNX Runtime"
ONE, TWO, BESIDE = "one thread, ms", "two threads, ms", "two threads beside a busy process, ms"
BUSY = """
import os
if hasattr(os, "sched_setaffinity"):  # on Linux it keeps to the last core
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
while True:
    pass
"""


@contextmanager
def busy_core() -> Iterator[None]:
    """Runs a process that takes all that it gets of a core; RuntimeError where it ends before the block."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("the busy process ended too early")
    finally:
        process.kill()
        process.wait()


def measure(
    model: str, repeats: int, step: Callable[[str], None] = lambda name: None
) -> list[dict[str, Any]]:
    """Returns a row per case and contender, with its times under every condition.

    All take turns, first alone and then beside the busy process. ONNX Runtime keeps the number of threads
    that it was opened with, so that it has no time of one. Raises RuntimeError where it is not there.
    """
    step(f"loading {model}")
    reference, tokenizer = cases.load(model)
    torch.set_num_threads(2)
    setting = Setting(reference, tokenizer, "cpu", torch.float32)
    peer = peers.build(peers.available()[PEER], setting)
    if isinstance(peer, peers.Absent):
        raise RuntimeError(f"{PEER}: {peer.reason}")
    contenders: dict[str, Contender] = {
        "gliclass-fast": Engine(setting),
        "gliclass-fast, int8": Engine(setting, quantization="int8"),
        PEER: peer,
    }
    return [row for case in CASES for row in _rows(case, contenders, repeats, step)]


def _rows(
    case: cases.Case, contenders: dict[str, Contender], repeats: int, step: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    step(case.name)
    runs = {name: contender.forward(case) for name, contender in contenders.items()}

    def timed(condition: str, names: Sequence[str]) -> dict[str, Callable[[], None]]:
        return {name + condition: partial(_run, 1 if condition == ONE else 2, runs[name]) for name in names}

    own = [name for name in runs if name != PEER]
    times = alternate(timed(ONE, own) | timed(TWO, list(runs)), repeats)
    with busy_core():
        times |= alternate(timed(BESIDE, list(runs)), repeats)
    records = as_record(times)
    for name in runs:
        found = {each: records[name + each] for each in (ONE, TWO, BESIDE) if name + each in records}
        yield {"case": case.name, "engine": name, "times": found}


def _run(threads: int, run: Any) -> None:
    torch.set_num_threads(threads)
    run()
