"""Registers, spills and shared memory of the compiled CUDA kernels: the built extension tells, without a GPU.

python -m tools.compiled_resources [--output bench/results/compiled.json]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gliclass_fast.kernels._extension import extension
from tools.kernel_resources import TOOLS

KERNEL = re.compile(r"attendILb(\d)ELi(\d+)ELb(\d)ELb(\d)E")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def measure() -> Iterator[dict[str, Any]]:
    command = [str(TOOLS / "cuobjdump"), "--dump-resource-usage", extension().__file__]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    architecture, kernel = 0, ""
    for line in listing.splitlines():
        if found := re.match(r"arch = sm_(\d+)", line):
            architecture = int(found[1])
        elif found := KERNEL.search(line):
            bf16, rows, c2p, p2c = map(int, found.groups())
            terms = "+".join(name for name, there in (("c2p", c2p), ("p2c", p2c)) if there) or "no terms"
            kernel = f"disentangled attention, {rows} rows, {'bf16' if bf16 else 'fp16'}, {terms}"
        elif found := USAGE.search(line):
            registers, stack, static, local = map(int, found.groups())
            yield {
                "kernel": kernel,
                "architecture": architecture,
                "registers": registers,
                "spilled_bytes": stack + local,
                "shared_bytes": static + extension().shared_bytes(rows),
            }


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
