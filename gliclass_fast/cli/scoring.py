"""Scoring: parts of rows become outcomes; a row that fails is found and does not take others with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import OutOfMemoryError

from gliclass_fast.cli.results import Outcome
from gliclass_fast.cli.rows import Row

_FAILURES = (ValueError, TypeError, FloatingPointError, OutOfMemoryError)
# (texts, the number of the first of them in the input) -> outcomes
Call = Callable[[list[str], int], list[Outcome]]


def score(rows: Sequence[Row], first: int, call: Call) -> list[Outcome]:
    """Returns an outcome per row; `first` is the number of the first row in the input, from 0.

    Where a part fails, halves of it are tried until the rows that fail stand alone. Raises the error of
    `call` where any text at all fails, as then it is a mistake in the options.
    """
    # a row with an error takes part as an empty text, so that numbers in messages stay those of rows
    texts = ["" if row.error is not None else str(row.text) for row in rows]
    try:
        found = call(texts, first)
    except _FAILURES:
        call(["a text"], first)
        found = _halved(texts, first, call)
    return [
        outcome if row.error is None else Outcome(None, row.error)
        for row, outcome in zip(rows, found, strict=True)
    ]


def _halved(texts: list[str], first: int, call: Call) -> list[Outcome]:
    try:
        return call(texts, first)
    except _FAILURES as error:
        if len(texts) == 1:
            return [Outcome(None, str(error))]
    half = len(texts) // 2
    return [*_halved(texts[:half], first, call), *_halved(texts[half:], first + half, call)]


def outcomes(found: list[Any], cuts: Sequence[int]) -> list[Outcome]:
    """Returns the outcomes of predictions, with the numbers of tokens that the window had no room for."""
    return [Outcome(each, cut=cut > 0) for each, cut in zip(found, cuts, strict=True)]
