"""Choices inside the kernels: a GPU times blocks of attention, tiles of GEMMs, GELU and grouped maps.

Everything is timed as bench/operations.py times it, by replays of CUDA graphs. A CPU only tries this out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from gliclass_fast.bench import operations
from gliclass_fast.bench.operations import Run
from gliclass_fast.bench.timing import Times
from gliclass_fast.kernels import compiled_disentangled_attention
from gliclass_fast.kernels.linear import linear_triton
from gliclass_fast.ops import implementation, unavailable_reason

ROWS = {"cuda": (128, 512, 2048, 16384), "cpu": (16,)}
GEMMS = {"QKV": (2304, 768), "O": (768, 768), "up": (3072, 768), "down": (768, 3072)}  # outputs, inputs
PROJECTED = {"cuda": ((16, 16), (64, 512), (64, 960)), "cpu": ((2, 3),)}  # texts and labels
BATCHES = ((1, 128), (1, 512), (4, 128), (8, 256), (4, 1024))  # sequences, tokens of each
BLOCKS = ((64, 1), (64, 2), (128, 1))  # queries of a block, shares of its keys


@torch.inference_mode()
def measure(device: str, dtype: torch.dtype, repeats: int) -> Iterator[dict[str, Any]]:
    for name, (width, depth) in GEMMS.items():
        for rows in ROWS[device]:
            runs = gemms(device, dtype, rows, width, depth)
            graphs = {each: operations.recorded(run, device) for each, run in runs.items()}
            times = operations.per_call(graphs, repeats, device)
            yield {"gemm": name, "rows": rows, "us": microseconds(times)}
    for counts in PROJECTED[device]:
        runs = projectors(device, dtype, *counts)
        graphs = {each: operations.recorded(run, device) for each, run in runs.items()}
        times = operations.per_call(graphs, repeats, device)
        yield {"projectors": "{} texts, {} labels".format(*counts), "us": microseconds(times)}
    if unavailable_reason("cuda", device, dtype, operations.DIM) is None:
        for sequences, tokens in BATCHES:
            found = blocks(device, dtype, sequences, tokens, repeats)
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


def projectors(device: str, dtype: torch.dtype, texts: int, labels: int) -> dict[str, Run]:
    """Returns the maps of both projectors, one after the other and together, with GELU and without.

    Without, cuBLAS computes them one after the other.
    """
    width, depth = GEMMS["O"]
    backend = "triton" if unavailable_reason("triton", device, dtype) is None else "reference"
    xs = tuple(torch.randn(count, depth, device=device).to(dtype) for count in (texts, labels))
    weights = tuple(torch.randn(width, depth, device=device).to(dtype) / 8 for _ in xs)
    biases = tuple(torch.randn(width, device=device).to(dtype) for _ in xs)
    arguments = (implementation("linear", backend), xs, weights, biases)
    return {
        f"{name}, {activation}": partial(implementation("grouped_linear", own), *arguments, activation)
        for name, own in (("alone", "reference"), ("together", backend))
        for activation in ("gelu", "none")
    }


def blocks(device: str, dtype: torch.dtype, sequences: int, tokens: int, repeats: int) -> dict[str, Any]:
    """Times compiled disentangled attention's blocks, with clocks per 64 x 64 tile.

    Where a device has too little shared memory for "64 in 2", that is "64 in 1" again.
    """
    _, case = operations.attentions(device, dtype, sequences, tokens)
    run = operations.implementations(case, device, dtype)["cuda"]
    chosen, runs = compiled_disentangled_attention.blocks, {}
    try:
        for rows, shares in BLOCKS:
            # The recorded call reads it.
            compiled_disentangled_attention.blocks = partial(_always, rows, shares)
            runs[f"{rows} in {shares}"] = operations.recorded(run, device)
    finally:
        compiled_disentangled_attention.blocks = chosen
    times = operations.per_call(runs, repeats, device)
    return {"us": microseconds(times), **operations.clocks_per_tile(case, times, runs["128 in 1"])}


def _always(rows: int, shares: int, *_: Any) -> tuple[int, int]:
    return rows, shares


def microseconds(times: dict[str, Times]) -> dict[str, float]:
    """Returns the median of each."""
    return {name: round(1e3 * each.median, 2) for name, each in times.items()}
