"""Results: what of a row and its predictions is written, in which columns, and how a row is found again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gliclass_fast.cli.rows import Row, shown
from gliclass_fast.text.predictions import Prediction, best_first

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Holds the predictions of a row, or why it has none."""

    predictions: list[Prediction] | None
    error: str | None = None
    cut: bool = False  # whether the window had no room for the whole text


class Kept(NamedTuple):
    """Holds what is needed of a result that a file has already."""

    own: tuple[str, ...]  # its text, or without it the columns that are kept
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Says what a result holds.

    keep: columns of the input. text: whether the text is there. top_k: labels per text, the best first.
    """

    keep: tuple[str, ...] = ()
    text: bool = True
    top_k: int | None = None

    @property
    def own_columns(self) -> list[str]:
        """Names the columns in front of the predictions."""
        return [*self.keep, *(["text"] if self.text else [])]

    def record(self, row: Row, outcome: Outcome) -> Record:
        """Returns a result: its own columns, `predictions`, best first, and `error` where it failed."""
        record = self._own(row)
        if outcome.predictions is None:
            return {**record, "predictions": None, "error": outcome.error}
        return {**record, "predictions": best_first(outcome.predictions)[: self.top_k]}

    def kept(self, record: Mapping[str, Any]) -> Kept:
        """Returns what is needed of a result; KeyError where it lacks a column."""
        return Kept(tuple(map(_written, self._telling(record))), bool(record.get("error")))

    def fits(self, kept: Kept, row: Row) -> bool:
        """Tells whether a result may be that of a row."""
        same = all(map(_may_be, kept.own, self._telling(self._own(row))))
        return same and (kept.failed or row.error is None)

    def _own(self, row: Row) -> Record:
        return {**{name: row.kept[name] for name in self.keep}, **({"text": row.text} if self.text else {})}

    def _telling(self, record: Mapping[str, Any]) -> list[Any]:
        """Returns what tells a record from others: the text, or without it the columns that are kept."""
        return [record[name] for name in (["text"] if self.text else self.keep)]


def _written(value: Any) -> str:
    return "" if value is None else str(value)  # a null is as an empty text in .csv


def _may_be(written: str, value: Any) -> bool:
    """Tells whether a result that holds `written` was made of a value.

    A column of parquet makes 1 of 1.0 or the other way round, and what becomes of lists, say, in a result
    depends on the kind of file: they tell nothing.
    """
    if written == _written(value):
        return True
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _is_number(written, value)
    return not (value is None or isinstance(value, (str, bool)))


def _is_number(written: str, value: float) -> bool:
    """Compares whole numbers digit by digit: floats cannot tell large ones apart."""
    try:
        return int(written) == value
    except ValueError:
        pass
    try:
        return float(written) == float(value)
    except (ValueError, OverflowError):  # of an integer of very many digits
        return False


def json_line(record: Record) -> str:
    """Returns a line of valid JSON: what a column that is kept holds beyond it is a string, or an escape."""
    try:
        line = json.dumps(record, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:  # an infinity, or NaN within a list
        plain = json.loads(json.dumps(record, default=str), parse_constant=lambda name: str(float(name)))
        line = json.dumps(plain, ensure_ascii=False)
    return shown(line) + "\n"
