"""Peak resident memory of loading a folder and classifying one 8x256 batch, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import cases

CASE = cases.Case("8x256", (256,) * 8)


def of(engine: str, folder: str) -> int:
    """Mebibytes for "reference" or "engine"."""
    command = [sys.executable, "-m", "bench.peak_memory", engine, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def _classify(engine: str, folder: str) -> Any:
    if engine == "reference":
        import gliclass

        model = gliclass.GLiClassModel.from_pretrained(folder)
        pipeline = gliclass.ZeroShotClassificationPipeline(model, folder, device="cpu", progress_bar=False)
    else:
        import gliclass_fast

        pipeline = gliclass_fast.ZeroShotClassificationPipeline(folder, device="cpu", progress_bar=False)
    return pipeline(cases.texts(CASE), list(CASE.labels), batch_size=8)


if __name__ == "__main__":
    _classify(*sys.argv[1:])
    # not getrusage: its maximum survives fork and exec, and would be the parent's
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(int(peak) // 1024)
