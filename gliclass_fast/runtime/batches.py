"""Batches: a plan says which prompts run together, within a budget of tokens.

Where a device has no memory for a batch, smaller ones run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from gliclass_fast.runtime.graphs import MAX_TOKENS
from gliclass_fast.runtime.shortage import is_shortage

logger = logging.getLogger(__name__)

# the tokens of a batch where nobody asks for another number; on a GPU as many as CUDA graphs take
BATCH_TOKENS = {"cpu": 2048, "cuda": MAX_TOKENS}
Result = TypeVar("Result")


def plan_batches(
    lengths: Sequence[int], batch_tokens: int, owners: Sequence[int] | None = None, most_owners: int = 0
) -> Iterator[list[int]]:
    """Yields groups of indices, longest prompts first, of at most `batch_tokens`; a longer one goes alone.

    owners: the number of every prompt's adapter, 0 for none. Those of a group then stand together, and a
    group has at most `most_owners` others than 0.
    """
    group: list[int] = []
    tokens, met = 0, set[int]()
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        more = met if owners is None else (met | {owners[index]}) - {0}
        if group and (tokens + lengths[index] > batch_tokens or len(more) > most_owners > 0):
            yield _together(group, owners)
            group, tokens, more = [], 0, more & {owners[index] if owners else 0}
        group.append(index)
        tokens, met = tokens + lengths[index], more
    if group:
        yield _together(group, owners)


def _together(group: list[int], owners: Sequence[int] | None) -> list[int]:
    return group if owners is None else sorted(group, key=owners.__getitem__)


def run_batches(
    costs: Sequence[int],
    budget: int,
    run: Callable[[list[int]], Result],
    relieve: Callable[[], None],
    owners: Sequence[int] | None = None,
    most_owners: int = 0,
) -> Iterator[tuple[list[int], Result]]:
    """Calls `run` on groups of prompts, given as indices, as `plan_batches` makes them.

    Where a GPU has no memory for a group, `relieve` gives back what it can and the group runs again; where
    there still is none, and on a CPU, it runs in halves. Raises torch.OutOfMemoryError where a prompt does
    not fit alone.
    """
    waiting = [(group, False) for group in plan_batches(costs, budget, owners, most_owners)][::-1]
    while waiting:
        group, relieved = waiting.pop()
        try:
            result = run(group)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            # the host's memory, which no graph holds
            if isinstance(error, MemoryError) or "CPUAllocator" in str(error):
                relieved = True
            if relieved and len(group) == 1:
                raise torch.OutOfMemoryError(f"out of memory on one text alone: {error}") from error
        else:
            yield group, result
            continue
        if not relieved:
            logger.warning(
                "out of memory on a batch of %d prompts: it runs again without CUDA graphs", len(group)
            )
            relieve()
            waiting.append((group, True))
            continue
        logger.warning("out of memory on a batch of %d prompts: it runs in halves", len(group))
        middle = len(group) // 2
        waiting += (group[middle:], True), (group[:middle], True)
