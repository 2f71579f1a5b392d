"""bfloat16 on a CPU: who computes in it, and whether it is worth it, which a short measurement says.

On a CPU the weights of a backbone's linear layers and their inputs are bfloat16. Everything else, such as
sums, norms and attention, is float32, so nothing overflows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache

import torch

from gliclass_fast.ops import choose_ops, unavailable_reason
from gliclass_fast.runtime.settings import Settings

logger = logging.getLogger(__name__)

FASTER = 1.2  # so much faster than float32 it must be
_ROWS, _DEEPEST, _WIDEST = 64, 1024, 4096  # of the map that is measured, which is a model's up to these sizes
_REPEATS = 5


def computing(dtype: torch.dtype, settings: Settings) -> tuple[torch.dtype, str | None]:
    """Returns the dtype in which a model of `dtype` computes, and how its backbone's linear layers round.

    A backend that is asked for computes in bfloat16 itself.
    """
    if dtype is torch.bfloat16 and settings.device.type == "cpu" and settings.backend is None:
        return torch.float32, "bfloat16"
    return dtype, settings.quantization


@cache
def is_faster(depth: int, width: int) -> bool:
    """Tells whether a linear map takes at most 1 / FASTER of its time in float32, on 64 rows.

    depth, width: the numbers of inputs and outputs. It takes some hundredths of a second, once in a process.
    """
    if unavailable_reason("bf16", "cpu"):
        return False
    weight = torch.ones(min(width, _WIDEST), min(depth, _DEEPEST), dtype=torch.float32, device="cpu")
    x = weight.new_ones(_ROWS, weight.shape[1])

    def map_in(rounding: str | None) -> Callable[[], object]:
        ops = choose_ops("cpu", rounding=rounding)
        packed = ops.pack_linear(weight)
        return lambda: ops.linear(x, packed, None)

    plain, rounded = maps = map_in(None), map_in("bfloat16")
    least = dict.fromkeys(maps, float("inf"))
    for _ in range(_REPEATS):
        for each in maps:
            start = time.perf_counter()
            each()
            least[each] = min(least[each], time.perf_counter() - start)
    gain = least[plain] / least[rounded]
    logger.info("linear maps of %d inputs are %.2f times as fast in bfloat16 as in float32", depth, gain)
    return gain >= FASTER
