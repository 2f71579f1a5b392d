"""Batches within the memory of a device: smaller ones where it is short."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from gliclass_fast.batch import plan_batches

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Group = list[int]


def run_batches(
    costs: Sequence[int], budget: int, run: Callable[[Group], Result], relieve: Callable[[], bool]
) -> Iterator[tuple[Group, Result]]:
    """`run` on groups of prompts, given as indices, as `plan_batches` makes them.

    Without memory for a group, what `relieve` may give back (it says whether there was any) is given back
    first; after that the group runs in halves. Raises torch.OutOfMemoryError for a prompt that does not fit
    alone.
    """
    waiting = list(reversed(list(plan_batches(costs, budget))))
    while waiting:
        group = waiting.pop()
        try:
            result = run(group)
        except torch.OutOfMemoryError:
            if relieve():
                waiting.append(group)
                continue
            if len(group) == 1:
                raise
        else:
            yield group, result
            continue
        logger.warning("out of memory on a batch of %d prompts: it runs in halves", len(group))
        middle = len(group) // 2
        waiting += group[middle:], group[:middle]
