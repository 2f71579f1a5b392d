"""Every implementation of the operations that take the time: shapes are DeBERTa-v3-base and ModernBERT-base.

    python -m gliclass_fast.bench.operations [--device cuda] [--output FILE.json]

A GPU is timed while it replays a CUDA graph of several calls, as launching a short call takes longer than the
call. For attention it also gives the clocks that a multiprocessor spends per 64 x 64 tile of scores there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gliclass_fast.bench.timing import Times, alternate, as_record, machine
from gliclass_fast.ops import (
    IMPLEMENTATIONS,
    DistanceTables,
    Sequences,
    implementation,
    unavailable_reason,
)
from gliclass_fast.runtime.device import resolve_device
from gliclass_fast.runtime.packing import work_list

HEADS, DIM, REACH = 12, 64, 512
WIDTH = HEADS * DIM
LENGTHS = (64, 128, 256, 512, 1024)
LARGEST_ERROR = 0.02  # Only a wrong kernel exceeds it, not a rounding one; tests/ hold the real bounds.
TOKENS = {"cuda": 16384, "cpu": 1024}
CALLS = {"cuda": 50, "cpu": 1}  # This number of calls is timed as one, so that waiting for a GPU is not.
Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    operation: str
    arguments: tuple[Any, ...]
    flops: float
    tiles: float = 0  # tiles of 64 x 64 scores, over all heads


def cases(device: str, dtype: torch.dtype, tokens: int | None = None) -> list[Case]:
    total = tokens or TOKENS[device]

    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype) / 8

    x, up, down, bias = make(total, WIDTH), make(3072, WIDTH), make(WIDTH, 3072), make(3072)
    gate = make(2 * 1152, WIDTH)
    sums = gate.float().sum(1)
    norm = make(WIDTH)
    found = [
        Case("up, GELU", "linear", (x, up, bias, "gelu"), 2 * total * WIDTH * 3072),
        Case("down", "linear", (make(total, 3072), down, norm), 2 * total * WIDTH * 3072),
        Case(
            "norm, GeGLU", "norm_linear", (x, gate, None, sums, 1e-5, "gelu", True), 4 * total * WIDTH * 1152
        ),
        Case("residual, norm", "add_norm", (x, x, norm, norm, 1e-7), 8 * total * WIDTH),
    ]
    for length in LENGTHS:
        if length <= total:
            found += attentions(device, dtype, total // length, length)
    return found


def attentions(device: str, dtype: torch.dtype, count: int, length: int) -> list[Case]:
    """Returns plain and disentangled attention over so many sequences of so many tokens."""
    total = count * length
    bucket_of = torch.arange(2 * REACH + 1, device=device) // 2
    keys, queries = (torch.randn(HEADS, DIM, REACH + 1, device=device).to(dtype) / 8 for _ in range(2))
    cu = np.arange(0, total + 1, length, dtype=np.int32)
    work = torch.from_numpy(work_list(cu, np.stack((cu[:-1], cu[1:]), axis=1))).to(device)
    qkv = torch.randn(total, 3, HEADS, DIM, device=device).to(dtype) / 8
    sequences = Sequences(torch.from_numpy(cu).to(device), None, work, length)
    products, tiles = 4 * HEADS * DIM * total * length, HEADS * total * length / 64**2
    name = f"{count} x {length}"
    disentangled = (qkv, sequences, 0.07, DistanceTables(keys, queries, bucket_of))
    return [
        Case(f"attention, {name}", "attention", (qkv, sequences, 0.125), products, tiles),
        Case(f"disentangled, {name}", "disentangled_attention", disentangled, products, tiles),
    ]


def implementations(case: Case, device: str, dtype: torch.dtype) -> dict[str, Run]:
    """Maps a backend to a call of the case, with weights and tables as that backend keeps them."""
    found: dict[str, Run] = {}
    for backend in IMPLEMENTATIONS[case.operation]:
        if unavailable_reason(backend, device, dtype, DIM) is not None:
            continue
        arguments = list(case.arguments)
        if case.operation in ("linear", "norm_linear"):
            arguments[1] = _function("pack_linear", backend)(arguments[1])
        if case.operation == "disentangled_attention":
            arguments[3] = _function("pack_distances", backend)(arguments[3])
        run = _function(case.operation, backend)
        found[backend] = partial(run, *arguments)
    return found


def _function(operation: str, backend: str) -> Callable[..., Any]:
    return implementation(operation, backend if backend in IMPLEMENTATIONS[operation] else "reference")


def errors(functions: dict[str, Run]) -> dict[str, float]:
    """Returns every implementation's error, as a share of the reference's norm; int8 rounds on purpose."""
    exact = functions["reference"]().double()
    found = {name: float((run().double() - exact).norm() / exact.norm()) for name, run in functions.items()}
    wrong = {name: error for name, error in found.items() if not error <= LARGEST_ERROR}
    if wrong:
        raise ValueError(f"not timed, the results differ: {wrong}")
    return found


def recorded(run: Run, device: str) -> Run:
    """Returns a call that makes CALLS calls, on a GPU by replaying a graph of them."""

    def many() -> None:
        for _ in range(CALLS[device]):
            run()

    if device == "cpu":
        return many
    many()  # This compiles the kernels.
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        many()
    return graph.replay


def per_call(runs: dict[str, Run], repeats: int, device: str) -> dict[str, Times]:
    """Times what `recorded` returned; the times are those of one call."""
    calls = CALLS[device]
    return {
        name: Times(t.median / calls, t.p20 / calls, t.p80 / calls, t.p99 / calls, t.runs)
        for name, t in alternate(runs, repeats, device=device).items()
    }


def clocks_per_tile(case: Case, times: dict[str, Times], run: Run) -> dict[str, Any]:
    """Returns the clock rate during a run and the clocks at that rate, or nothing where no rate is told."""
    if (megahertz := sm_megahertz(run)) is None:
        return {}
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    per_millisecond = 1e3 * megahertz * processors / case.tiles
    clocks = {name: round(each.median * per_millisecond, 1) for name, each in times.items()}
    return {"sm_mhz": megahertz, "clocks_per_tile": clocks}


def sm_megahertz(run: Run) -> float | None:
    """Returns the clock of the multiprocessors while a run is repeated; None if nvidia-smi does not tell."""
    command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--id=0"]
    try:
        reading = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while reading.poll() is None:
            run()
            torch.cuda.synchronize()
        return float(reading.communicate()[0])
    except (OSError, ValueError):
        return None


@torch.inference_mode()
def measure(
    device: str, dtype: torch.dtype, repeats: int, tokens: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yields a row per case; tokens: how many a case has, in place of TOKENS."""
    for case in cases(device, dtype, tokens):
        functions = implementations(case, device, dtype)
        row: dict[str, Any] = {"case": case.name, "error": errors(functions)}
        # The reference walks through sequences on the host, so no graph holds it, and two runs are enough.
        slow = {"reference": functions.pop("reference")}
        runs = {name: recorded(run, device) for name, run in functions.items()}
        times = per_call(runs, repeats, device)
        if device == "cuda" and case.tiles and times:
            fastest = min(times, key=lambda name: times[name].median)
            row |= clocks_per_tile(case, times, runs[fastest])
        times |= alternate(slow, repeats=2, warmup=0, device=device)
        row["ms"] = as_record(times)
        row["tflop_per_s"] = {name: round(case.flops / t.median / 1e9, 2) for name, t in times.items()}
        shown = (f"{name} {t.median:.3f} ms {row['tflop_per_s'][name]} TFLOP/s" for name, t in times.items())
        print(f"{case.name}:", *shown, row.get("clocks_per_tile", ""), sep="  ", flush=True)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=resolve_device().type)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    dtype = torch.float16 if options.device == "cuda" else torch.float32
    rows = list(measure(options.device, dtype, options.repeats))
    if options.output:
        result = {"benchmark": "operations", "machine": machine(options.device), "rows": rows}
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
