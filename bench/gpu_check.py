"""Everything that only a GPU shows, in one command: build, times, parity, sanitizer, tests; one JSON.

    python bench/gpu_check.py --output FOLDER [--wheels FOLDER] [--shapes a,b] [--repeats N] [--minutes M]

Writes FOLDER/gpu_check.json within M minutes, 8 by default; what finds no time is a failure there. Needs
torch, transformers, nvcc, a C++ compiler and pybind11; --wheels names a folder of wheels (gliclass, the
peers, and pytest where it is absent) to install first, for machines without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parent.parent
SHAPES = "deberta-v3-base,modernbert-base,ettin-32m,bert-base,mdeberta-v3-base"
TOO_SLOW = ("gliclass + torch.compile", "cross-encoder (NLI)")  # for a check of eight minutes
SANITIZERS = ("memcheck", "racecheck")
FOR_TESTS = 240  # seconds of them; the shapes share what is left before
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def step(
    command: list[str], limit: float, environment: Mapping[str, str] = MappingProxyType({})
) -> dict[str, Any]:
    """Runs a command in the repository: its exit status, seconds and last lines."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=limit,
            env={**os.environ, **environment},
        )  # fmt: skip
        status, tail = done.returncode, (done.stdout + done.stderr).splitlines()[-30:]
    except (subprocess.TimeoutExpired, FileNotFoundError) as error:
        status, tail = None, [str(error)]
    return {"returncode": status, "seconds": round(time.perf_counter() - start, 1), "tail": tail}


def build(limit: float) -> dict[str, Any]:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return step(command, limit, {"GLICLASS_FAST_BUILD": "cuda"})


def check(device: str, limit: float) -> dict[str, Any]:
    """The files of tests/gpu, and the compiled kernels' contracts under compute-sanitizer, side by side:
    what takes their time is compilation, on the host. limit: seconds.
    """
    commands = {
        path.stem: [*PYTEST, str(path)] for path in sorted((ROOT / "tests" / "gpu").glob("test_*.py"))
    }
    if device == "cuda":
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        contracts = [*PYTEST, "-k", "contract and ragged", "tests/gpu/test_compiled.py"]
        for name in SANITIZERS:
            commands[name] = [tool, "--tool", name, "--error-exitcode", "1", *contracts]
    # each tensor in memory of its own, or memcheck cannot see a kernel run over its end
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    with ThreadPoolExecutor(len(commands)) as pool:
        running = {
            name: pool.submit(step, command, limit, environment if name in SANITIZERS else {})
            for name, command in commands.items()
        }
        return {name: future.result() for name, future in running.items()}


def bench_apart(shape: str, dtype: str, device: str, repeats: int, limit: float) -> dict[str, Any]:
    """One shape in a process of its own: an illegal access would end every later one in the same process.
    limit: seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shape.json"
        command = [sys.executable, __file__, "--output", str(file), "--only", "--shapes", shape]
        command += ["--dtypes", dtype, "--device", device, "--repeats", str(repeats)]
        done = step(command, limit)
        if done["returncode"] == 0:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return found
    return {"shape": shape, "dtype": dtype, "error": done["tail"]}


def bench_here(shape: str, dtype: str, device: str, repeats: int) -> dict[str, Any]:
    """Every case beside every peer, and what CUDA graphs hold and launch."""
    import torch

    from gliclass_fast.bench import peers
    from gliclass_fast.bench.cases import demo_tokenizer
    from gliclass_fast.bench.presets import PRESETS
    from gliclass_fast.bench.run import ENGINE, Bench

    bench = Bench(shape, device, getattr(torch, dtype), repeats)
    standard = PRESETS["standard"]
    choose = partial(standard.cases, device)
    names = [name for name in peers.available() if name not in TOO_SLOW]
    found = bench.measure(choose, standard.parts, names)
    if device == "cuda":
        cases = {case.name: case for case in choose(demo_tokenizer())}
        for row in found["rows"]:
            run = bench.entrants[f"{ENGINE}, no graphs"].contender.forward(cases[row["case"]])
            assert run is not None
            row["kernels"] = kernels_launched(run)
        engine: Any = bench.entrants[ENGINE].contender
        if (graphs := engine.model.graphs) is not None:
            found["graphs"] = {"count": graphs.count, "mib": round(graphs.memory / 2**20, 1)}
    return found


def kernels_launched(function: Callable[[], Any]) -> int:
    """Kernels on the GPU; the driver's copies and fills are not counted."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        function()
        torch.cuda.synchronize()
    events = profiled.events() or []
    on_gpu = [event.name for event in events if event.device_type.name == "CUDA"]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu)


def machine_ceilings(device: str) -> dict[str, float]:
    """Copy bandwidth in GB/s (read plus write) and bfloat16 GEMM rate in TFLOP/s."""
    import torch

    from gliclass_fast.bench.timing import alternate

    big = torch.empty(1 << 28 if device == "cuda" else 1 << 22, dtype=torch.float32, device=device)
    other = torch.empty_like(big)
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = alternate({"copy": lambda: other.copy_(big), "gemm": lambda: a @ b}, repeats=9, device=device)
    return {
        "copy_gb_per_s": round(2 * big.numel() * 4 / times["copy"].median / 1e6, 1),
        "bf16_gemm_tflop_per_s": round(2 * size**3 / times["gemm"].median / 1e9, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--dtypes", default="float16", help="the others are in the tests")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--device", default="cuda", help="cpu only tries the script out")
    parser.add_argument("--only", action="store_true", help="one shape, in this process")
    options = parser.parse_args()
    end: float = time.perf_counter() + 60 * options.minutes
    sys.path.insert(0, str(ROOT))
    if options.only:
        found = bench_here(options.shapes, options.dtypes, options.device, options.repeats)
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    if options.wheels:
        wheels = sorted(map(str, options.wheels.glob("*.whl")))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *wheels], check=True)

    import torch

    from gliclass_fast.bench.timing import machine

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is visible; --device cpu only tries the script out")
    options.output.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"benchmark": "gpu_check", "machine": machine(options.device), "failures": []}
    file = options.output / "gpu_check.json"

    def left() -> float:
        """Seconds until the tests must start."""
        return max(1.0, end - FOR_TESTS - time.perf_counter())

    def write() -> None:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    steps: dict[str, Any] = {}
    result["steps"], result["shapes"] = steps, []
    if options.device == "cuda":
        steps["build"] = build(left())
        target = str(options.output / "bench_ops.json")
        steps["operations"] = step(
            [sys.executable, "-m", "gliclass_fast.bench.bench_ops", "--output", target], left()
        )
        write()
    result["ceilings"] = machine_ceilings(options.device)
    for dtype in options.dtypes.split(","):
        for shape in options.shapes.split(","):
            found = bench_apart(shape, dtype, options.device, options.repeats, left())
            result["failures" if "error" in found else "shapes"].append(found)
            write()
            print(f"{shape} {dtype} done, {len(result['failures'])} failures", flush=True)
    # last: every kernel in every variant is compiled, which takes minutes
    steps |= check(options.device, end - time.perf_counter())
    write()
    rows = [row for shape in result["shapes"] for row in shape["rows"]]
    accurate = not any("gliclass-fast" in row["left_out"] for row in rows)
    failed = [name for name, each in steps.items() if each["returncode"] != 0]
    print("failed steps:", ", ".join(failed) or "none")
    sys.exit(bool(result["failures"] or failed) or not accurate)


if __name__ == "__main__":
    main()
