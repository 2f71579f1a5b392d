"""Registers, spills, shared memory and instructions of the compiled CUDA kernels, without a GPU.

python -m tools.compiled_resources [--output bench/results/compiled.json]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gliclass_fast.kernels._extension import extension
from tools.kernel_resources import TOOLS

KERNEL = re.compile(r"attendILb(\d)ELi(\d+)ELi(\d)ELb(\d)ELb(\d)E")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)")
# what meets in the pipeline of shared memory, and the multiplications that it feeds
KINDS = {"LDSM": "matrix_loads", "STS": "shared_stores", "SHFL": "exchanges", "HMMA": "tensor_core"}


def measure() -> Iterator[dict[str, Any]]:
    found = instructions()
    for place, line in _listing("--dump-resource-usage"):
        if place is None or not (usage := USAGE.search(line)):
            continue
        architecture, *kernel = place
        bf16, rows, shares, c2p, p2c = kernel
        terms = "+".join(name for name, there in (("c2p", c2p), ("p2c", p2c)) if there) or "no terms"
        size = f"{rows} rows" if shares == 1 else f"{rows} rows in {shares} shares"
        registers, stack, static, local = map(int, usage.groups())
        yield {
            "kernel": f"disentangled attention, {size}, {'bf16' if bf16 else 'fp16'}, {terms}",
            "architecture": architecture,
            "registers": registers,
            "spilled_bytes": stack + local,
            "shared_bytes": static + extension().shared_bytes(rows, shares),
            "instructions": found[place].total(),
            **{name: found[place][kind] for kind, name in KINDS.items()},
        }


def instructions() -> dict[tuple[int, ...], Counter[str]]:
    """Returns how many instructions of each kind a kernel has; those of a loop count once."""
    found: defaultdict[tuple[int, ...], Counter[str]] = defaultdict(Counter)
    for place, line in _listing("-sass"):
        if place is not None and (instruction := INSTRUCTION.search(line)):
            found[place][instruction[1]] += 1
    return found


def _listing(what: str) -> Iterator[tuple[tuple[int, ...] | None, str]]:
    """Yields the lines of a listing, each with its kernel: the architecture, and the numbers in the name."""
    command = [str(TOOLS / "cuobjdump"), what, extension().__file__]
    architecture, place = 0, None
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if found := re.match(r"arch = sm_(\d+)", line):
            architecture, place = int(found[1]), None
        elif found := re.match(r"\s*Function\s*:?\s", line):
            kernel = KERNEL.search(line)
            place = (architecture, *map(int, kernel.groups())) if kernel else None
        yield place, line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    result = {"benchmark": "compiled_resources", "cuda": extension().cuda_version, "rows": list(measure())}
    for row in result["rows"]:
        print(*(f"{key} {value}" for key, value in row.items()), sep="  ")
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
