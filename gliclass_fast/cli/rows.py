"""Rows: a text to score, where it stands in its file, and the columns of it that go into the result."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT_COLUMN = "text"  # unless another one is asked for
OF_COLUMNS = ("--keep", "--adapter-column", "--column")  # options that need a file with columns
RESULT_COLUMNS = ("text", "predictions", "labels", "scores", "error")


class FileFormatError(ValueError):
    """Reports a file that the command cannot read or write, and names it and what was expected."""


@dataclass(frozen=True, slots=True)
class Row:
    """Holds one row of an input. A row with an error is never scored."""

    place: str  # as messages name it: "line 7", or "row 7" where a file has no lines
    text: str | None
    kept: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """Says how an input is read.

    keep: the columns that go into the result. encoding: None is UTF-8, with or without a byte order mark.
    delimiter: of the cells of a .csv or .tsv file; None is a comma and a tab. adapter_column: the one that
    names the adapter of every row, or None.
    """

    column: str = TEXT_COLUMN
    keep: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    adapter_column: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for an encoding that does not exist and for names that results have already."""
        try:
            "".encode(self.codec)  # lookup alone also finds what is no encoding of texts
        except LookupError:
            raise ValueError(f"unknown encoding {self.encoding!r}; for example: utf-8, cp1252") from None
        if self.delimiter == "\\t":
            raise ValueError("--delimiter takes the word tab for a tab, not a backslash and t")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise ValueError(
                f"--delimiter is one character that separates cells, or the word tab, not {self.delimiter!r}"
            )
        if taken := [name for name in self.keep if name in RESULT_COLUMNS]:
            raise ValueError(f"--keep: results have a column {taken[0]!r} of their own")

    @property
    def other_columns(self) -> tuple[str, ...]:
        """Returns the columns that are read beside that of the texts."""
        asked_for = self.keep if self.adapter_column is None else (*self.keep, self.adapter_column)
        return tuple(dict.fromkeys(asked_for))

    def given(self, *options: str) -> str | None:
        """Names the first of some options that asks for something, or returns None."""
        asks = {
            "--keep": bool(self.keep), "--adapter-column": self.adapter_column is not None,
            "--column": self.column != TEXT_COLUMN, "--encoding": self.encoding is not None,
            "--delimiter": self.delimiter is not None,
        }  # fmt: skip
        return next((option for option in options if asks[option]), None)

    def option_of(self, column: str) -> str:
        """Names the option that asks for a column."""
        if column == self.column:
            return "--column"
        return "--keep" if column in self.keep else "--adapter-column"

    @property
    def codec(self) -> str:
        """Names the codec; that of UTF-8 leaves out a byte order mark, which is no part of the first text."""
        utf_8 = self.encoding is None or codecs.lookup(self.encoding).name == "utf-8"
        return "utf-8-sig" if utf_8 else str(self.encoding)

    @property
    def codec_name(self) -> str:
        return self.encoding or "UTF-8"


def checked(place: str, text: Any, kept: Mapping[str, Any] | None = None) -> Row:
    """Returns the row of a text; where it is null, no string, or not valid Unicode, with the error."""
    kept = kept or {}
    if text is None:
        return Row(place, None, kept, "the text is null")
    if not isinstance(text, str):
        return Row(place, None, kept, f"the text must be a string, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        fault = f"the text is not valid: {error.reason} at position {error.start}"
        return Row(place, shown(text), kept, fault)
    return Row(place, text, kept)


def shown(text: str) -> str:
    """Returns a text as it can be written: what is not valid Unicode becomes an escape, as \\ud800."""
    return text.encode("utf-8", "backslashreplace").decode()
