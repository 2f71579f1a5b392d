"""From nothing to a first result: fresh processes of each engine report seconds per step and peak memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import torch

from gliclass_fast.bench import cases

PROGRAM = """
import time
began = time.perf_counter()
import json, re, sys
from pathlib import Path
import torch
engine, folder, device, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
found, start = {}, began
def lap(name):
    global start
    now = time.perf_counter()
    found[name], start = now - start, now
package = __import__(engine)
lap("import, s")
model = package.GLiClassModel.from_pretrained(folder)
pipeline = package.ZeroShotClassificationPipeline(model, folder, device=device, progress_bar=False)
lap("load, s")
for name in ("first result, s", "second result, s"):
    pipeline(["The match went to extra time. " * 36] * 8, ["sports", "politics", "cooking"])
    lap(name)
status = Path("/proc/self/status")
if status.exists():  # not getrusage: its maximum survives fork and exec, and would be the parent's
    found["peak memory, MiB"] = int(re.search("VmHWM:\\s+(\\d+) kB", status.read_text())[1]) // 1024
print(json.dumps(found))
"""
ENGINES = {"gliclass-fast": "gliclass_fast", "gliclass": "gliclass"}


def measure(name: str, device: str, repeats: int) -> dict[str, dict[str, float]]:
    """Returns per engine the medians over processes; a result is that of 8 texts of about 256 tokens.

    Both engines keep their defaults: on a GPU the engine runs in 16 bit, the reference in float32.
    """
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = cases.load(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        samples: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
        order, threads = list(ENGINES), str(torch.get_num_threads())
        for _ in range(repeats):
            for engine in order:
                command = [sys.executable, "-c", PROGRAM, ENGINES[engine], folder, device, threads]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                samples[engine].append(json.loads(done.stdout.splitlines()[-1]))
            order.reverse()  # The engine that comes first meets colder files.
    return {
        engine: {step: round(statistics.median(each[step] for each in found), 3) for step in found[0]}
        for engine, found in samples.items()
    }
