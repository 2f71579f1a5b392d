"""Halving: a text that fails is found, and does not take the others of its part with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import OutOfMemoryError

Outcome = TypeVar("Outcome")
# (texts, the number of the first of them in the input) -> an outcome per text
Call = Callable[[list[str], int], list[Outcome]]
_FAILURES = (ValueError, TypeError, FloatingPointError, OutOfMemoryError)


def in_halves(
    texts: list[str], first: int, call: Call[Outcome], failed: Callable[[str], Outcome]
) -> list[Outcome]:
    """Returns an outcome per text; `failed` makes that of a text which fails, of the error's message.

    Where a part fails, halves of it are tried until the texts that fail stand alone. Raises the error of
    `call` where any text at all fails, as then it is a mistake in the options.
    """
    try:
        return call(texts, first)
    except _FAILURES:
        call(["a text"], first)
        return _halved(texts, first, call, failed)


def _halved(
    texts: list[str], first: int, call: Call[Outcome], failed: Callable[[str], Outcome]
) -> list[Outcome]:
    try:
        return call(texts, first)
    except _FAILURES as error:
        if len(texts) == 1:
            return [failed(str(error))]
    half = len(texts) // 2
    return [
        *_halved(texts[:half], first, call, failed),
        *_halved(texts[half:], first + half, call, failed),
    ]
