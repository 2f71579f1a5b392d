"""The measuring steps of gpu_check, a process each: python -m tools.gpu_steps STEP --rows FILE

`facts` and `ceilings` describe the machine. `warm` compiles what a shape needs, without timing. `shape` times
the engine in every case first and then beside the peers, with the kernels of a replay. `operations` runs
bench/operations.py, `tiles` bench_tiles.py and `sweep` bench_sweep.py. Every result is a line of FILE as soon
as it is there.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gliclass_fast.bench import peers
from gliclass_fast.bench.cases import CPU_CASES, GPU_CASES, Case, label_cases
from gliclass_fast.bench.operations import measure as measure_operations
from gliclass_fast.bench.run import ENGINE, Bench
from gliclass_fast.bench.timing import alternate, machine
from tools import bench_sweep, bench_tiles
from tools.supervise import append_row

Rows = Iterator[dict[str, Any]]
PARTS = ("forward", "pipeline")
DTYPES = {"cuda": torch.float16, "cpu": torch.float32}  # of what is timed without a model
TOO_SLOW = ("gliclass + torch.compile", "cross-encoder (NLI)")  # A check takes eight minutes.
EXPORTED = ("ONNX Runtime",)  # A CPU only tries the plan out, and an export takes long.
TRIED_TOKENS = 128  # A CPU tries the operations out with this number.
PROFILED = ("1x128", "64x256")
REPLAYS = 50
GPU_FACTS = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.draw,power.limit,temperature.gpu"


def facts(options: argparse.Namespace) -> Rows:
    yield {"machine": machine(options.device)}
    if options.device == "cuda":
        command = ["nvidia-smi", f"--query-gpu={GPU_FACTS}", "--format=csv,noheader", "--id=0"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        found = dict(zip(GPU_FACTS.split(","), answer.split(", "), strict=True))
        yield {"gpu": found, "cuda": torch.version.cuda}
        yield {"cublas": _cublas()}


def _cublas() -> str | None:
    """Returns the version of the library that multiplied last, or None where it is no file of its own."""
    torch.zeros(1, 1, device="cuda").mm(torch.zeros(1, 1, device="cuda"))
    loaded = Path("/proc/self/maps").read_text(encoding="utf-8").split()
    found = next((path for path in loaded if "libcublas.so" in path), None)
    if found is None:
        return None
    library = ctypes.CDLL(found)
    number = ctypes.c_int()
    parts = []
    for part in range(3):  # major, minor, patch
        library.cublasGetProperty(part, ctypes.byref(number))
        parts.append(str(number.value))
    return ".".join(parts)


def ceilings(options: argparse.Namespace) -> Rows:
    """Yields copy bandwidth in GB/s (read plus write) and bfloat16 GEMM rate in TFLOP/s."""
    on_gpu = options.device == "cuda"
    big = torch.empty(1 << 28 if on_gpu else 1 << 22, dtype=torch.float32, device=options.device)
    other = torch.empty_like(big)
    size = 8192 if on_gpu else 512
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=options.device) for _ in range(2))
    runs = {"copy": lambda: other.copy_(big), "gemm": lambda: a @ b}
    times = alternate(runs, options.repeats, device=options.device)
    yield {
        "copy_gb_per_s": round(2 * big.nbytes / times["copy"].median / 1e6, 1),
        "bf16_gemm_tflop_per_s": round(2 * size**3 / times["gemm"].median / 1e9, 1),
    }


def warm(options: argparse.Namespace) -> Rows:
    start = time.perf_counter()
    bench = _bench(options, repeats=1)
    cases = bench.prepare(partial(_cases, options.device))
    for case in cases:
        bench.entrants[ENGINE].contender.logits(case, 1)
    yield {"warmed": options.shape, "cases": len(cases), "seconds": round(time.perf_counter() - start, 1)}


def shape(options: argparse.Namespace) -> Rows:
    """Yields rows of the engine alone, then of the same cases beside the peers, if there is time for them."""
    bench = _bench(options, options.repeats)
    about = {"shape": options.shape, "dtype": options.dtype}
    cases = bench.prepare(partial(_cases, options.device))
    engine: Any = bench.entrants[ENGINE].contender
    for case in cases:
        yield tried({**about, "case": case.name, "beside": "nobody"}, partial(bench.row, case, PARTS))
        if options.device == "cuda":
            replays = partial(_replays, engine, case)
            yield tried({**about, "case": case.name, "beside": "itself"}, replays)
    if (graphs := engine.model.loaded.graphs) is not None:
        yield {**about, "graphs": graphs.count, "mib": round(graphs.memory / 2**20, 1)}
    left_out = TOO_SLOW if options.device == "cuda" else TOO_SLOW + EXPORTED
    absent = bench.invite([name for name in peers.available() if name not in left_out])
    yield {**about, "absent": absent}
    for case in cases:
        yield tried({**about, "case": case.name, "beside": "peers"}, partial(bench.row, case, PARTS))


def tried(about: dict[str, Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns a row, or what kept it from being found: the cases after it are measured all the same."""
    try:
        return {**about, **find()}
    except Exception as failure:
        return {**about, "failed": repr(failure)[:300]}


def operations(options: argparse.Namespace) -> Rows:
    tokens = None if options.device == "cuda" else TRIED_TOKENS
    yield from measure_operations(options.device, DTYPES[options.device], options.repeats, tokens)


def tiles(options: argparse.Namespace) -> Rows:
    yield from bench_tiles.measure(options.device, DTYPES[options.device], options.repeats)


def sweep(options: argparse.Namespace) -> Rows:
    yield from bench_sweep.measure(options.device, DTYPES[options.device], options.repeats)


def _bench(options: argparse.Namespace, repeats: int) -> Bench:
    return Bench(options.shape, options.device, getattr(torch, options.dtype), repeats, keeps_going=True)


def _cases(device: str, tokenizer: Any, window: int) -> list[Case]:
    """Returns the cases that fit the model's window, with the most labels that do."""
    lengths = list(GPU_CASES[1:] if device == "cuda" else CPU_CASES[:1])
    counts, tokens, batch = ((1, 32, 128), 256, 8) if device == "cuda" else ((1, 8), 64, 1)
    by_labels = label_cases(tokenizer, counts, tokens, batch)
    fitting = [case for case in by_labels if max(case.lengths) <= window]
    return [case for case in lengths if max(case.lengths) <= window] + fitting[-1:]


def _replays(engine: Any, case: Case) -> dict[str, Any]:
    """Returns a replay's milliseconds on the GPU and on the host, launched back to back, and its kernels."""
    run = engine.forward(case)
    for _ in range(3):  # By then it is recorded.
        run()
    torch.cuda.synchronize()
    event: Any = torch.cuda.Event
    first, last = event(enable_timing=True), event(enable_timing=True)
    first.record()
    start = time.perf_counter()
    for _ in range(REPLAYS):
        run()
    host = time.perf_counter() - start
    last.record()
    torch.cuda.synchronize()
    found: dict[str, Any] = {
        "replay_gpu_ms": round(first.elapsed_time(last) / REPLAYS, 4),
        "replay_host_ms": round(1e3 * host / REPLAYS, 4),
    }
    return {**found, "kernels": kernels_of(run)} if case.name in PROFILED else found


def kernels_of(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """Returns what a call runs on the GPU, copies too: count and microseconds by name, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profiled.events() or []:
        if event.device_type.name == "CUDA":
            found.setdefault(event.name, []).append(event.time_range.elapsed_us())
    rows = [{"name": name, "count": len(each), "us": round(sum(each), 2)} for name, each in found.items()]
    return sorted(rows, key=lambda row: -row["us"])


STEPS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "facts": facts,
    "ceilings": ceilings,
    "warm": warm,
    "shape": shape,
    "operations": operations,
    "tiles": tiles,
    "sweep": sweep,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shape")
    parser.add_argument("--dtype")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is visible")
    for row in STEPS[options.step](options):
        append_row(options.rows, {"step": options.step, **row})


if __name__ == "__main__":
    main()
