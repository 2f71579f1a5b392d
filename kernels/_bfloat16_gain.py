"""Whether a CPU computes faster in bfloat16 than in float32: short measurements say so, once in a process.

A processor that has instructions for bfloat16 may take more time for them than for those of float32.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from threading import Lock

import torch

from gliclass_fast.kernels._extension import multiplies_bfloat16
from gliclass_fast.kernels._sequences import TILE_ROWS, Sequences
from gliclass_fast.kernels._threads import kernels_on_one_thread
from gliclass_fast.kernels.compiled_attention import attention_cpp
from gliclass_fast.kernels.compiled_bfloat16 import linear_bfloat16, pack_bfloat16
from gliclass_fast.kernels.compiled_linear import linear_cpp, pack_cpp

logger = logging.getLogger(__name__)

FASTER = 1.2  # so much faster than float32 it must be
_ROWS, _DEEPEST, _WIDEST = 64, 1024, 4096  # of the map that is measured, which is a model's up to these sizes
_KEYS, _HEAD_WIDTH = 1024, 64  # of the attention that is measured, for one tile of rows
_REPEATS = 15
_Run = Callable[[], object]
_gains: dict[str, float] = {}
_measuring = Lock()  # one at a time, so that all models of a process have the same answer


def linear_is_faster_in_bfloat16(depth: int, width: int) -> bool:
    """Tells whether a linear map takes at most 1 / FASTER of its time in float32, on 64 rows.

    depth, width: the numbers of inputs and outputs. It takes about a tenth of a second, once in a process,
    and no time where the processor has no instructions for bfloat16.
    """
    depth, width = min(depth, _DEEPEST), min(width, _WIDEST)
    return _is_faster(f"maps of {depth} inputs and {width} outputs", partial(_maps, depth, width))


def attention_is_faster_in_bfloat16() -> bool:
    """Tells the same of attention, whose sums and softmax are float32; it takes about ten milliseconds."""
    return _is_faster("attention", _attentions)


def _is_faster(what: str, pair: Callable[[], tuple[_Run, _Run]]) -> bool:
    if not multiplies_bfloat16():
        return False
    with _measuring:
        if what not in _gains:
            _gains[what] = _gain(*pair())
            logger.info("bfloat16 is %.2f times as fast as float32 in %s", _gains[what], what)
        return _gains[what] >= FASTER


def _maps(depth: int, width: int) -> tuple[_Run, _Run]:
    weight = torch.ones(width, depth, dtype=torch.float32, device="cpu")
    x = weight.new_ones(_ROWS, depth)
    plain, rounded = pack_cpp(weight), pack_bfloat16(weight)
    return lambda: linear_cpp(x, plain, None), lambda: linear_bfloat16(x, rounded, None)


def _attentions() -> tuple[_Run, _Run]:
    qkv = torch.ones(_KEYS, 3, 1, _HEAD_WIDTH, dtype=torch.float32, device="cpu")
    integers = partial(torch.tensor, dtype=torch.int32, device="cpu")
    tiles = integers([[1, TILE_ROWS, 0, 0], [0, TILE_ROWS, 0, _KEYS]])
    seen = Sequences(integers([0, TILE_ROWS]), integers([[0, _KEYS]]), tiles, TILE_ROWS)
    return lambda: attention_cpp(qkv, seen, 1.0), lambda: attention_cpp(qkv, seen, 1.0, bfloat16=True)


def _gain(plain: _Run, rounded: _Run) -> float:
    """Returns how many times as fast the second is; the least times are those without an interruption."""
    least = dict.fromkeys((plain, rounded), float("inf"))
    with kernels_on_one_thread():
        for _ in range(_REPEATS):
            for run in least:
                start = time.perf_counter()
                run()
                least[run] = min(least[run], time.perf_counter() - start)
    return least[plain] / least[rounded]
