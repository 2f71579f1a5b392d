"""oneDNN compiles code per number of rows and keeps it: products go to it in pieces of few sizes."""

from __future__ import annotations

from functools import lru_cache

from gliclass_fast.kernels._arithmetic import ceil_div

STEP, SMALL, LARGE = 16, 128, 1024  # rows: up to SMALL any multiple of STEP, then powers of two up to LARGE
PIECES = (*range(STEP, SMALL + 1, STEP), *(SMALL << n for n in range(1, (LARGE // SMALL).bit_length())))


@lru_cache(maxsize=4096)
def pieces(rows: int) -> list[int]:
    """Returns sizes of PIECES, the largest first, that together have `rows` rows, or up to STEP more."""
    sizes = []
    while rows > SMALL:
        sizes.append(next(size for size in reversed(PIECES) if size <= rows))
        rows -= sizes[-1]
    return [*sizes, ceil_div(rows, STEP) * STEP] if rows else sizes or [STEP]
