"""Overflow: what overflows 16 bit is computed again in float32; what is not finite there is an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from gliclass_fast.engine.naming import named

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


def complete(
    answers: Sequence[Answer | None],
    numbers: Sequence[int],
    dtype: torch.dtype,
    again: Callable[[list[int]], Sequence[Answer | None]],
) -> list[Answer]:
    """Returns all answers; a given None stands for values that are not finite in `dtype`.

    numbers: the number that messages give to the text of each answer. again: returns the answers of given
    places in float32; it is called at most once, after a warning, and not where `dtype` is float32.

    Raises FloatingPointError, which names the texts, where values are not finite in float32.
    """
    found = [answer for answer in answers if answer is not None]
    if len(found) == len(answers):
        return found
    broken = [place for place, answer in enumerate(answers) if answer is None]
    texts = named(numbers[place] for place in broken)
    if dtype is torch.float32:
        raise FloatingPointError(
            f"the model gave values that are not finite in float32 for {texts}: the "
            "checkpoint is damaged, or its values overflow even float32"
        )
    logger.warning("values overflow %s in %s: it runs again in float32", dtype, texts)
    rest = complete(again(broken), [numbers[place] for place in broken], torch.float32, again)
    replaced = iter(rest)
    return [next(replaced) if answer is None else answer for answer in answers]
