"""Whether a CPU computes linear maps faster in bfloat16 than in float32: a short measurement says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

import torch

from gliclass_fast.ops import choose_ops, multiplies_bfloat16

logger = logging.getLogger(__name__)

FASTER = 1.2  # so much faster than float32 it must be
_ROWS, _DEEPEST, _WIDEST = 64, 1024, 4096  # of the map that is measured, which is a model's up to these sizes
_REPEATS = 15
_gains: dict[tuple[int, int], float] = {}
_measuring = Lock()  # one at a time, so that all models of a process have the same answer


def bfloat16_is_faster(depth: int, width: int) -> bool:
    """Tells whether a linear map takes at most 1 / FASTER of its time in float32, on 64 rows.

    depth, width: the numbers of inputs and outputs. It takes about a tenth of a second, once in a process,
    and no time where the processor has no instructions for bfloat16.
    """
    if not multiplies_bfloat16():
        return False
    sizes = min(depth, _DEEPEST), min(width, _WIDEST)
    with _measuring:
        if sizes not in _gains:
            _gains[sizes] = _gain(*sizes)
            logger.info(
                "bfloat16 is %.2f times as fast as float32 in maps of %d inputs", _gains[sizes], depth
            )
        return _gains[sizes] >= FASTER


def _gain(depth: int, width: int) -> float:
    """Returns how many times as fast it is, by the processor time of the calling thread."""
    weight = torch.ones(width, depth, dtype=torch.float32, device="cpu")
    x = weight.new_ones(_ROWS, depth)

    def map_in(rounding: str | None) -> Callable[[], object]:
        ops = choose_ops("cpu", rounding=rounding)
        packed = ops.pack_linear(weight)
        return lambda: ops.linear(x, packed, None)

    plain, rounded = maps = map_in(None), map_in("bfloat16")
    least = dict.fromkeys(maps, float("inf"))
    for _ in range(_REPEATS):
        for each in maps:
            start = time.thread_time()
            each()
            least[each] = min(least[each], time.thread_time() - start)
    return least[plain] / least[rounded]
