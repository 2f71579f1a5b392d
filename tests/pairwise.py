"""This module lists few rows of option values in which every two values of two options meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Row = dict[str, Any]
Meeting = frozenset[tuple[str, Any]]  # of values that have to stand in one row
BOTH = (True, False)
POOLED: dict[str, Sequence[Any]] = {  # options of checkpoints that pool labels
    "extract_text_features": BOTH,
    "class_token_pooling": ("first", "average"),
    "normalize_features": BOTH,
    "embed_class_token": BOTH,
    "shot": BOTH,
}


def pairwise(
    allowed: Callable[[Row], bool] = lambda row: True,
    together: Sequence[Sequence[str]] = (),
    **options: Sequence[Any],
) -> list[Row]:
    """Gives rows with a value of every option, the same at every call.

    allowed: whether values may stand in one row; it is asked about rows that lack options too. together:
    groups of options whose whole product has to be met, not their pairs alone.

    Values have to be hashable.
    """
    missing = dict.fromkeys(_meetings(allowed, together, options))
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for name, values in options.items():
            if name not in row:
                choices = [{**row, name: value} for value in values]
                row = max(filter(allowed, choices), key=lambda choice: _met(choice, missing))
        rows.append({name: row[name] for name in options})
        for meeting in [meeting for meeting in missing if meeting <= row.items()]:
            del missing[meeting]
    return rows


def in_words(row: Row) -> str:
    """Gives the name of a row as a test's parameter: its values, and the switches that are on."""
    return " ".join(
        name if value is True else str(value) for name, value in row.items() if value is not False
    )


def _met(row: Row, missing: Mapping[Meeting, None]) -> int:
    return sum(meeting <= row.items() for meeting in missing)


def _meetings(
    allowed: Callable[[Row], bool], together: Sequence[Sequence[str]], options: Mapping[str, Sequence[Any]]
) -> Iterator[Meeting]:
    for names in (*together, *combinations(options, 2)):
        for values in product(*(options[name] for name in names)):
            if allowed(row := dict(zip(names, values, strict=True))):
                yield frozenset(row.items())
