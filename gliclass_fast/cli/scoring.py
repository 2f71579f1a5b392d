"""Scoring: parts of rows become outcomes; a row that fails is found and does not take others with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gliclass_fast.cli.results import Outcome
from gliclass_fast.cli.rows import Row
from gliclass_fast.pipeline.halving import in_halves

# texts, the number of the first of them in the input, the adapter of each -> an outcome per text
Call = Callable[[list[str], int, list[str | None]], list[Outcome]]


def score(
    rows: Sequence[Row], first: int, call: Call, adapter_of: Callable[[Row], str | None] = lambda row: None
) -> list[Outcome]:
    """Returns an outcome per row; `first` is the number of the first row in the input, from 0.

    adapter_of: gives the adapter of a row without an error.

    Raises the error of `call` where any text at all fails, as then it is a mistake in the options.
    """
    adapters = [None if row.error is not None else adapter_of(row) for row in rows]

    def part(texts: list[str], start: int) -> list[Outcome]:
        own = adapters[start - first :][: len(texts)]
        return call(texts, start, own)

    # a row with an error takes part as an empty text, so that numbers in messages stay those of rows
    texts = ["" if row.error is not None else str(row.text) for row in rows]
    found = in_halves(texts, first, part, lambda error: Outcome(None, error))
    return [
        outcome if row.error is None else Outcome(None, row.error)
        for row, outcome in zip(rows, found, strict=True)
    ]


def outcomes(found: list[Any], cuts: Sequence[int]) -> list[Outcome]:
    """Returns the outcomes of predictions, with the numbers of tokens that the window had no room for."""
    return [Outcome(each, cut=cut > 0) for each, cut in zip(found, cuts, strict=True)]
