"""Random requests to tiny pipelines, for minutes, in a process with threads."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import torch

from tools.fuzzing.check import check
from tools.fuzzing.kinds import KINDS, pipeline
from tools.fuzzing.requests import request

CALLERS = 4  # threads that share a pipeline, for one request in eight
MOST_FAULTS = 20  # that are described


def draw(seed: int, number: int) -> tuple[str, dict[str, Any], bool, int]:
    """Returns a kind, a request, whether threads share its calls, and the threads of each call."""
    chance = Random(f"{seed}/{number}")
    return chance.choice(KINDS), request(chance), chance.random() < 0.125, chance.randint(1, 2)


def fuzz(seed: int, minutes: float, numbers: Iterator[int]) -> dict[str, Any]:
    """Returns how many calls were made, of which kinds, and the faults that were met."""
    for kind in KINDS:
        pipeline(kind)
    calls, faults, drawn = dict.fromkeys(KINDS, 0), [], 0
    end = time.monotonic() + 60 * minutes
    with ThreadPoolExecutor(CALLERS) as pool:
        for number in numbers:
            kind, asked, shared, threads = draw(seed, number)
            torch.set_num_threads(threads)
            each: Callable[..., Any] = pool.map if shared else map
            drawn += 1
            try:
                calls[kind] += check(kind, asked, each)
            except Exception:
                last = traceback.format_exc(limit=-3)
                faults.append({"number": number, "kind": kind, "request": repr(asked)[:2000], "error": last})
            if time.monotonic() >= end or len(faults) >= MOST_FAULTS:
                break
    return {"requests": sum(calls.values()), "drawn": drawn, "by_kind": calls, "faults": faults}
