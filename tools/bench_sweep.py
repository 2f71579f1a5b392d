"""Block sizes of the Triton kernels: a GPU times candidates beside those that are chosen.

A candidate takes the place of the chosen sizes in a kernel's table while its call is recorded. A CPU only
tries this out, in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gliclass_fast.bench import operations
from gliclass_fast.bench.operations import DIM, HEADS, WIDTH, Run
from gliclass_fast.kernels import attention, linear
from gliclass_fast.ops import Positions, unavailable_reason
from tools.bench_tiles import microseconds

Sizes = tuple[int, ...]
# rows, columns and depth of a block, warps, stages: for few rows and for many
GEMM_BLOCKS: dict[bool, tuple[Sizes, ...]] = {
    False: ((64, 64, 128, 4, 3), (32, 64, 128, 4, 4), (64, 128, 64, 4, 3), (128, 64, 64, 4, 3)),
    True: ((128, 256, 64, 8, 3), (256, 128, 64, 8, 3), (128, 128, 64, 4, 3), (128, 128, 64, 8, 4)),
}
# rows and keys of a step, warps, stages
ATTENTION_BLOCKS: tuple[Sizes, ...] = ((64, 64, 4, 3), (128, 64, 8, 2), (128, 128, 8, 2))
ROWS = {"cuda": (128, 512, 2048, 16384), "cpu": (16,)}
BATCHES = {"cuda": ((1, 512), (64, 256)), "cpu": ((1, 16),)}  # sequences, tokens of each


@dataclass(frozen=True, slots=True)
class Sweep:
    about: dict[str, Any]
    table: dict[Any, Any]
    key: Any
    candidates: tuple[Sizes, ...]
    run: Run


@torch.inference_mode()
def measure(device: str, dtype: torch.dtype, repeats: int) -> Iterator[dict[str, Any]]:
    if (reason := unavailable_reason("triton", device, dtype)) is not None:
        yield {"sweep": None, "absent": reason}
        return
    for sweep in sweeps(device, dtype):
        chosen = sweep.table[sweep.key]
        runs: dict[str, Run] = {}
        failed: dict[str, str] = {}
        for sizes in dict.fromkeys((chosen, *sweep.candidates)):
            sweep.table[sweep.key] = sizes
            try:
                runs[str(sizes)] = operations.recorded(sweep.run, device)
            except Exception as failure:  # too much shared memory, say
                failed[str(sizes)] = repr(failure)[:200]
            finally:
                sweep.table[sweep.key] = chosen
        times = microseconds(operations.per_call(runs, repeats, device))
        yield {**sweep.about, "chosen": str(chosen), "us": times, "not_run": failed}


def sweeps(device: str, dtype: torch.dtype) -> Iterator[Sweep]:
    def make(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype) / 8

    up, bias, gate = make(3072, WIDTH), make(3072), make(2 * 1152, WIDTH)
    sums = gate.float().sum(1)
    for rows in ROWS[device]:
        x, many = make(rows, WIDTH), rows > linear.FEW
        for name, run in {
            "up, GELU": partial(linear.linear_triton, x, up, bias, "gelu"),
            "norm, GeGLU": partial(
                linear.norm_linear_triton, x, gate, None, sums, 1e-5, activation="gelu", gated=True
            ),
        }.items():
            key = x.element_size(), many
            yield Sweep({"sweep": name, "rows": rows}, linear.TILE, key, GEMM_BLOCKS[many], run)
    for count, tokens in BATCHES[device]:
        plain, _ = operations.attentions(device, dtype, count, tokens)
        qkv, sequences, scale = plain.arguments
        angles = make(tokens, DIM // 2), make(tokens, DIM // 2)
        for name, positions in {
            "attention": Positions(),
            "attention, rotary": Positions(angles),
            "attention, rotary, window": Positions(angles, window=64),
            "attention, distance bias": Positions(
                distance_bias=torch.zeros(HEADS, 2 * 128 + 1, device=device)
            ),
        }.items():
            about = {"sweep": name, "batch": f"{count} x {tokens}"}
            run = partial(attention.attention_triton, qkv, sequences, scale, positions)
            tile = attention.tile_key(dtype.itemsize, DIM)
            yield Sweep(about, attention.TILE, tile, ATTENTION_BLOCKS, run)
