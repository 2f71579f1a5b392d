"""Scoring: parts of rows become outcomes; a row that fails is found and does not take others with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gliclass_fast.cli.results import Outcome
from gliclass_fast.cli.rows import Row
from gliclass_fast.engine import halving

Call = halving.Call[Outcome]


def score(rows: Sequence[Row], first: int, call: Call) -> list[Outcome]:
    """Returns an outcome per row; `first` is the number of the first row in the input, from 0.

    Raises the error of `call` where any text at all fails, as then it is a mistake in the options.
    """
    # a row with an error takes part as an empty text, so that numbers in messages stay those of rows
    texts = ["" if row.error is not None else str(row.text) for row in rows]
    found = halving.in_halves(texts, first, call, lambda error: Outcome(None, error))
    return [
        outcome if row.error is None else Outcome(None, row.error)
        for row, outcome in zip(rows, found, strict=True)
    ]


def outcomes(found: list[Any], cuts: Sequence[int]) -> list[Outcome]:
    """Returns the outcomes of predictions, with the numbers of tokens that the window had no room for."""
    return [Outcome(each, cut=cut > 0) for each, cut in zip(found, cuts, strict=True)]
