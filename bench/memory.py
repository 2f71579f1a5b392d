"""What a process grows by that meets texts of many lengths, and what it costs that it does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo
from gliclass_fast.bench.timing import alternate, as_record
from gliclass_fast.kernels import linear
from gliclass_fast.ops import IMPLEMENTATIONS

PROGRAM = """
import gc, json, os, random, statistics, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import torch
package, model, options, callers, calls = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
torch.set_num_threads(1)
package = __import__(package)
model_class, pipeline_class = package.GLiClassModel, package.ZeroShotClassificationPipeline
loaded = model_class.from_pretrained(model, **options)
pipeline = pipeline_class(loaded, model, max_length=512, device="cpu", progress_bar=False)
chance, words = random.Random(0), [f"w{n}" for n in range(5000)]
def request(_):
    text = " ".join(chance.choices(words, k=chance.randint(1, 100)))
    return text, chance.sample(words, chance.randint(1, 25))
def timed(given):
    began = time.perf_counter()
    pipeline(*given)
    return 1e3 * (time.perf_counter() - began)
def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
requests = list(map(request, range(20 + calls)))
for given in requests[:20]:
    pipeline(*given)
start = resident()
with ThreadPoolExecutor(callers) as pool:
    first = list(pool.map(timed, requests[20:]))
    grown = resident() - start
    again = list(pool.map(timed, requests[-50:]))
found = {"after 20 calls, MiB": start, "grown by, MiB": grown}
found |= {"a call, ms": statistics.median(first), "of a length seen before, ms": statistics.median(again)}
print(json.dumps({name: round(value, 1) for name, value in found.items()}))
"""
ENGINES: dict[str, tuple[str, dict[str, str]]] = {
    "gliclass-fast": ("gliclass_fast", {}),
    "gliclass": ("gliclass", {}),
}
CALLERS = (1, 8)  # threads that share one pipeline
LENGTHS = range(2, 102, 2)  # words of the texts of `cost`


def measure(calls: int = 1600, step: Callable[[str], None] = lambda name: None) -> list[dict[str, Any]]:
    """Returns a row per engine and number of calling threads, on the CPU with the demo checkpoint.

    Every call has one text of 1 to 100 words and 1 to 25 labels. The first 20 calls are not counted.
    """
    rows = []
    for callers in CALLERS:
        for engine, (package, options) in ENGINES.items():
            step(f"{engine}, {callers} calling")
            given = [package, str(demo.PATH), json.dumps(options), str(callers), str(calls)]
            command = [sys.executable, "-c", PROGRAM, *given]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            facts = json.loads(done.stdout.splitlines()[-1])
            rows.append({"engine": engine, "calling threads": callers, "calls": calls, **facts})
    return rows


def cost(repeats: int) -> dict[str, dict[str, float]]:
    """Returns the times of a call per length on the CPU, with the demo checkpoint, by how linear maps run.

    They run in the package's own kernels, which keep nothing; in oneDNN in pieces, as without a compiler; and
    in oneDNN with all rows at once, which keeps code for every length. All lengths were met before.
    """

    def pipeline() -> ZeroShotClassificationPipeline:
        model = GLiClassModel.from_pretrained(demo.PATH, device="cpu")
        return ZeroShotClassificationPipeline(model, demo.PATH, progress_bar=False)

    ours = pipeline()
    by_onednn = {
        name: {backend: place for backend, place in rows.items() if backend != "cpp"}
        for name, rows in IMPLEMENTATIONS.items()
        if "onednn" in rows
    }
    with patch.dict(IMPLEMENTATIONS, by_onednn):
        theirs = pipeline()

    def run(asked: ZeroShotClassificationPipeline) -> None:
        for words in LENGTHS:
            asked("word " * words, ["sports", "politics", "cooking", "music"])

    def run_whole() -> None:
        with patch.object(linear, "pieces", lambda rows: [rows]):
            run(theirs)

    runs = {
        "kernels of the package": lambda: run(ours),
        "oneDNN in pieces": lambda: run(theirs),
        "oneDNN, which grows": run_whole,
    }
    return as_record(alternate(runs, repeats))
