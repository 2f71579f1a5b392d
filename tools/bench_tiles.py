"""Choices inside the kernels: a GPU times rows of a block of attention, tiles of GEMMs and GELU side by side.

Everything is timed as the replay of a CUDA graph of several calls, so that launching costs nothing. A CPU
only tries this out and makes plain calls. The clock is that of the multiprocessors while the kernel runs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from gliclass_fast.bench import bench_ops
from gliclass_fast.bench.timing import alternate
from gliclass_fast.kernels import compiled_cuda
from gliclass_fast.kernels.linear import linear_triton
from gliclass_fast.ops import unavailable_reason

Run = Callable[[], Any]
CALLS = 10  # calls in one graph
ROWS = {"cuda": (128, 512, 2048, 16384), "cpu": (16,)}
GEMMS = {"QKV": (2304, 768), "O": (768, 768), "up": (3072, 768), "down": (768, 3072)}  # outputs, inputs
BATCHES = ((1, 128), (1, 512), (4, 128), (8, 256), (4, 1024))  # sequences, tokens of each


@torch.inference_mode()
def measure(device: str, dtype: torch.dtype, repeats: int) -> Iterator[dict[str, Any]]:
    for name, (width, depth) in GEMMS.items():
        for rows in ROWS[device]:
            runs = gemms(device, dtype, rows, width, depth)
            yield {"gemm": name, "rows": rows, "us": microseconds(runs, repeats, device)}
    if unavailable_reason("cuda", device, dtype, bench_ops.DIM) is None:
        for sequences, tokens in BATCHES:
            found = block_rows(device, dtype, sequences, tokens, repeats)
            yield {"attention": f"{sequences} x {tokens}", **found}


def gemms(device: str, dtype: torch.dtype, rows: int, width: int, depth: int) -> dict[str, Run]:
    """Returns a linear map with and without GELU: by cuBLAS and PyTorch, and in one Triton kernel.

    Triton's "relu" costs next to nothing, so it stands for the tile without an activation.
    """
    shapes = ((rows, depth), (width, depth), (width,))
    x, weight, bias = (torch.randn(*shape, device=device).to(dtype) / 8 for shape in shapes)
    found: dict[str, Run] = {
        "torch": partial(F.linear, x, weight, bias),
        "torch, GELU": lambda: F.gelu(F.linear(x, weight, bias)),
    }
    if unavailable_reason("triton", device, dtype) is None:
        for name in ("relu", "gelu"):
            found[f"triton, {name}"] = partial(linear_triton, x, weight, bias, name)
    return found


def block_rows(device: str, dtype: torch.dtype, sequences: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Times compiled disentangled attention in blocks of 64 and 128 queries, with clocks per 64 x 64 tile."""
    _, case = bench_ops.attentions(device, dtype, sequences, tokens)
    run = bench_ops.implementations(case, device, dtype)["cuda"]
    chosen, runs = compiled_cuda.block_rows, {}
    try:
        for rows in (64, 128):
            compiled_cuda.block_rows = partial(_always, rows)  # The recorded call reads it.
            runs[str(rows)] = recorded(run, device)
    finally:
        compiled_cuda.block_rows = chosen
    times = microseconds(runs, repeats, device, record=False)
    clock = sm_megahertz(runs["128"])
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    clocks = {name: round(us * clock * processors / case.tiles, 1) for name, us in times.items()}
    return {"us": times, "sm_mhz": clock, "clocks_per_tile": clocks}


def _always(rows: int, *_: Any) -> int:
    return rows


def microseconds(runs: dict[str, Run], repeats: int, device: str, record: bool = True) -> dict[str, float]:
    """Returns the median of each, per call."""
    if record:
        runs = {name: recorded(run, device) for name, run in runs.items()}
    times = alternate(runs, repeats, device=device)
    return {name: round(1e3 * each.median / CALLS, 2) for name, each in times.items()}


def recorded(run: Run, device: str) -> Run:
    """Returns a call that makes CALLS calls, on a GPU by replaying a graph of them."""
    many = partial(bench_ops.repeated, run, CALLS)
    if device == "cpu":
        return many
    many()  # This compiles the kernels.
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        many()
    return graph.replay


def sm_megahertz(run: Run) -> float:
    """Returns the clock of the multiprocessors, read while calls are running."""
    event: Any = torch.cuda.Event
    start, end = event(enable_timing=True), event(enable_timing=True)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    for _ in range(min(20_000, int(300 / max(start.elapsed_time(end), 0.01)))):  # This takes about 0.3 s.
        run()
    command = ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits", "--id=0"]
    clock = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    torch.cuda.synchronize()
    return clock
