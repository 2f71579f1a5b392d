"""From nothing to a first result, each engine in fresh processes: seconds of each step, and peak memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from gliclass_fast.bench import cases

PROGRAM = """
import json, re, sys, time
from pathlib import Path
engine, folder, device = sys.argv[1:]
found, start = {}, time.perf_counter()
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
    """Per engine the medians over processes; the results are of 8 texts of about 256 tokens."""
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = cases.load(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        samples: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
        for _ in range(repeats):
            for engine, module in ENGINES.items():
                command = [sys.executable, "-c", PROGRAM, module, folder, device]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                samples[engine].append(json.loads(done.stdout.splitlines()[-1]))
    return {
        engine: {step: round(statistics.median(each[step] for each in found), 3) for step in found[0]}
        for engine, found in samples.items()
    }
