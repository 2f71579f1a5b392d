"""Damaged files that coverage leads: atheris (libFuzzer) goes on with those that reach new lines of a reader.

python -m tools.fuzzing.guided FILE SECONDS SEED RESULT

A file is changed as files.py does it, or by libFuzzer's own mutations. Each reader has a process of its own,
as libFuzzer ends its process. It needs atheris: Linux, Python 3.11 or newer.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

LONGEST = 1 << 17  # bytes of a file
MOST_MEMORY = 1024  # MiB that files may take in all
# what is watched: the readers, not what they read for
WATCHED = ["gliclass_fast.checkpoint", "gliclass_fast.cli", "gliclass_fast.config", "gliclass_fast.models"]
OWN_CHANGES = 0.5  # the share of changes that files.py makes


def fuzz(seed: int, minutes: float, numbers: Iterator[int]) -> dict[str, Any]:
    """Gives every reader its part of the time; returns what `fuzz` of files.py does."""
    from tools.fuzzing.files import READERS

    first, second = next(numbers), next(numbers)  # of the readers of this process
    own = list(READERS)[first :: second - first]
    found = {name: _in_a_process(name, 60 * minutes / len(own), seed) for name in own}
    return {
        "files": sum(each["files"] for each in found.values()),
        "refused": sum(each["refused"] for each in found.values()),
        "by_file": {name: each["files"] for name, each in found.items()},
        "faults": [fault for each in found.values() for fault in each["faults"]],
    }


def _in_a_process(name: str, seconds: float, seed: int) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", __name__, name, str(seconds), str(seed), str(result)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if not result.exists():  # the process died of what it read, which libFuzzer writes down
            died_of = [file.read_bytes()[:300] for file in Path(folder).glob("*-*")]
            raise RuntimeError(f"{name}: {died_of}, exit code {done.returncode}\n{done.stderr[-2000:]}")
        return json.loads(result.read_text(encoding="utf-8"))


def _run(name: str, seconds: float, seed: int, result: Path) -> None:
    """Reads changed files until the time is over, and writes down what came of it."""
    import atheris

    logging.disable(logging.WARNING)
    with atheris.instrument_imports(include=WATCHED):
        from tools.fuzzing.files import MOST_FAULTS, READERS, damaged, outcome, prepared
    folder = result.parent
    (folder / "files").mkdir()
    file = prepared(folder / "files") / name
    whole, is_json = file.read_bytes(), name.endswith(".json")
    kept = folder / "kept"  # where libFuzzer finds the whole file, and puts others
    kept.mkdir()
    (kept / "whole").write_bytes(whole)
    files, refused, faults = 0, 0, dict[str, Any]()  # by the place in the code
    end = time.monotonic() + seconds

    def read(content: bytes) -> None:
        nonlocal files, refused
        files += 1
        error, problem = outcome(file, whole, content, *READERS[name])
        refused += error
        if problem is not None:
            fault = {"number": files, "file": name, "begins": repr(content[:300]), "error": problem}
            faults.setdefault(problem.rpartition("File ")[2], fault)
        if time.monotonic() >= end or len(faults) >= MOST_FAULTS:
            found = {"files": files, "refused": refused, "faults": list(faults.values())}
            result.write_text(json.dumps(found), encoding="utf-8")
            os._exit(0)  # libFuzzer has no other end

    def changed(content: bytes, most: int, number: int) -> bytes:
        chance = Random(number)
        if chance.random() >= OWN_CHANGES:
            mutated: bytes = atheris.Mutate(content, most)
            return mutated
        try:
            return damaged(content, is_json, chance)[:most]
        except (ValueError, RecursionError):  # it is no JSON any more
            return damaged(content, False, chance)[:most]

    # the peak may be that of the process that started this one
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    options = (
        f"-seed={seed}", f"-max_len={LONGEST}", f"-rss_limit_mb={peak + MOST_MEMORY}", "-reduce_inputs=0",
        f"-artifact_prefix={folder}/",
    )  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(kept)], read, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    _run(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
