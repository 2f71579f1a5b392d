"""Batches within the memory of a device: smaller ones run where memory is short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from gliclass_fast.runtime.packing import plan_batches
from gliclass_fast.runtime.shortage import is_shortage

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Group = list[int]


def run_batches(
    costs: Sequence[int],
    budget: int,
    run: Callable[[Group], Result],
    relieve: Callable[[], None],
    owners: Sequence[int] | None = None,
    most_owners: int = 0,
) -> Iterator[tuple[Group, Result]]:
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
