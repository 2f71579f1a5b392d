"""Fuzzing: random requests, damaged files or random sizes of kernels, for which what is documented must hold.

python -m tools.fuzz --minutes 10 --seed 1 [--target TARGET] [--number N] [--record]

pipelines: calls of tiny pipelines of every kind (tools/fuzzing/requests.py). A request is one call.
files: damaged config.json, safetensors, tokenizer.json, adapters, CSV, JSON and JSON lines.
guided: the same, led by what new lines of the readers a file reaches (atheris). Numbers name no case there.
kernels: the compiled CPU kernels at random sizes, built with AddressSanitizer and UndefinedBehaviorSanitizer.
guided-kernels: the same, led by what new code of the kernels a case reaches (atheris). It has no numbers.

A seed and a number name a case: --number runs that one alone. The exit code is 1 where there are faults.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context
from typing import Any

from tools.reliability import record

GUIDED = ("guided", "guided-kernels")
TARGETS = ("pipelines", "files", "kernels", *GUIDED)
KERNELS = ("kernels", "guided-kernels")


def worker(target: str, seed: int, minutes: float, first: int, step: int) -> dict[str, Any]:
    """Runs the cases first, first + step, first + 2 step... for some minutes."""
    logging.disable(logging.WARNING)  # most texts are cut, and most files are damaged
    if target == "pipelines":
        from tools.fuzzing.pipelines import fuzz
    elif target == "files":
        from tools.fuzzing.files import fuzz
    elif target == "guided":
        from tools.fuzzing.guided import fuzz
    elif target == "guided-kernels":
        from tools.fuzzing.guided_kernels import fuzz
    else:
        from tools.fuzzing.kernels import fuzz
    return fuzz(seed, minutes, count(first, step))


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Adds up the results of processes: numbers, dicts of numbers, and lists."""
    total: dict[str, Any] = {}
    for name, value in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(value, dict):
            keys = dict.fromkeys(key for each in values for key in each)
            total[name] = {key: sum(each.get(key, 0) for each in values) for key in keys}
        else:
            total[name] = sum(values, [] if isinstance(value, list) else 0)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=TARGETS, default="pipelines")
    parser.add_argument("--processes", type=int, help="Default: the number of CPUs; one for kernels.")
    parser.add_argument("--number", type=int, help="This case alone.")
    parser.add_argument("--record", action="store_true", help="Write the result down, under its seed.")
    options = parser.parse_args()
    if options.number is not None and options.target in GUIDED:
        parser.error(f"--number names no case of --target {options.target}")
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    began, seed, target = time.monotonic(), options.seed, options.target
    processes = options.processes or (1 if target in KERNELS else os.cpu_count() or 1)
    if options.number is not None:
        found = worker(target, seed, 1e-9, options.number, 1)
    else:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            parts = [
                pool.submit(worker, target, seed, options.minutes, first, processes)
                for first in range(processes)
            ]
            found = together([part.result() for part in parts])
    facts = {"seed": seed, "processes": processes, "seconds": round(time.monotonic() - began), **found}
    print(json.dumps(facts, indent=1, ensure_ascii=True))
    if options.record:
        record(f"fuzz {target}", facts, among=("seed",))
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
