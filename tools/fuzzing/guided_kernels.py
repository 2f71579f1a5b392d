"""The compiled CPU kernels at sizes that libFuzzer draws: it goes on with those that reach new code of them.

python -m tools.fuzzing.guided_kernels LIBRARY SECONDS SEED RESULT

The cases are those of kernels.py, but they draw from the bytes of libFuzzer (atheris) instead of from chance.
It needs atheris: Linux, Python 3.11 or newer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tools.fuzzing import sanitized

LONGEST = 256  # bytes of a case, of which most draw fewer
LONGEST_CASE = 60  # seconds
DEATHS = ("crash", "oom", "timeout", "leak")  # what libFuzzer's names of files begin with
MOST_FAULTS = 20
MOST_MEMORY = 4096  # MiB of the process; AddressSanitizer keeps what was freed for a while


class Drawn(Random):
    """Draws from bytes; where they end, zeros follow."""

    def __init__(self, content: bytes) -> None:
        super().__init__(0)
        import atheris

        self._bytes = atheris.FuzzedDataProvider(content)

    def random(self) -> float:
        """Returns a number from 0 to below 1."""
        return self.getrandbits(16) / (1 << 16)

    def getrandbits(self, k: int, /) -> int:
        """Returns so many bits, up to 64."""
        return int(self._bytes.ConsumeIntInRange(0, (1 << k) - 1))


def fuzz(seed: int, minutes: float, numbers: Iterator[int]) -> dict[str, Any]:
    """Builds the extension, and returns how many cases a process of its own ran, and the faults."""
    del numbers  # no number names a case here
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = sanitized.build(folder, guided=True)
        result = folder / "result.json"
        given = [str(each) for each in (library, 60 * minutes, seed, result)]
        done = subprocess.run(
            [sys.executable, "-m", __name__, *given],
            env=sanitized.environment(guided=True),
            cwd=sanitized.ROOT,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if result.exists():
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found
        died_of = {file.name: file.read_bytes().hex() for kind in DEATHS for file in folder.glob(f"{kind}-*")}
        fault = {"died of": died_of, "exit code": done.returncode, "error": sanitized.report(done.stderr)}
        return {"cases": 0, "by_kernel": {}, "faults": [fault]}


def _run(library: str, seconds: float, seed: int, result: Path) -> None:
    """Runs cases until the time is over, and writes down what came of them."""
    import atheris

    sanitized.load(library)
    from gliclass_fast.kernels._extension import extension
    from tools.fuzzing import kernels

    sets, faults, done = extension().instruction_sets(), list[dict[str, str]](), dict[str, int]()
    end = time.monotonic() + seconds

    def run(content: bytes) -> None:
        operation, wrong = kernels.run(Drawn(content), sets)
        done[operation] = done.get(operation, 0) + 1
        if wrong is not None:
            faults.append({"drawn from": content.hex(), "operation": operation, "error": wrong})
        if time.monotonic() >= end or len(faults) >= MOST_FAULTS:
            found = {"cases": sum(done.values()), "by_kernel": done, "faults": faults}
            result.write_text(json.dumps(found), encoding="utf-8")
            os._exit(0)  # libFuzzer has no other end

    options = (
        f"-seed={seed}", f"-max_len={LONGEST}", "-len_control=0", f"-rss_limit_mb={MOST_MEMORY}",
        f"-timeout={LONGEST_CASE}",
        f"-artifact_prefix={result.parent}/",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    _run(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
