"""Inputs: what a person gave to classify becomes parts of rows, of standard input those that have arrived."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from gliclass_fast.checkpoint.documents import path_of
from gliclass_fast.cli.readers import hint_of_pattern, kind_of, read_rows
from gliclass_fast.cli.resume import note_of
from gliclass_fast.cli.rows import OF_COLUMNS, FileFormatError, Reading, Row, checked, shown

STANDARD_INPUT = ("-", "/dev/stdin")
BYTES_AT_A_TIME = 1 << 16
# A single word with one of these endings is the name of a file, whether the command reads such files or not.
_FILE_SUFFIXES = (
    *(".csv", ".tsv", ".tab", ".txt", ".log", ".md", ".json", ".jsonl", ".ndjson", ".parquet", ".feather"),
    *(".arrow", ".orc", ".npy", ".npz", ".pkl", ".db", ".sqlite", ".xls", ".xlsx", ".ods", ".doc", ".docx"),
    *(".pdf", ".rtf", ".htm", ".html", ".xml", ".yaml", ".yml", ".gz", ".bz2", ".xz", ".zst", ".zip", ".tar"),
)


class Source(Protocol):
    """An input: its name for messages, its number of rows where that is known, and its rows."""

    @property
    def name(self) -> str: ...

    @property
    def total(self) -> int | None: ...

    @property
    def identity(self) -> str | None:
        """What another run over the same texts names, too: a whole path, or the texts themselves.

        None where nothing does.
        """
        ...

    def parts(self, size: int) -> Iterator[list[Row]]:
        """Yields the rows in order, in parts of at most `size`, none of which is empty."""
        ...


class Known:
    """Holds rows that are all there: those of arguments or of a file."""

    def __init__(self, name: str, rows: Sequence[Row], identity: str | None) -> None:
        self.name, self._rows, self.total, self.identity = name, rows, len(rows), identity

    def parts(self, size: int) -> Iterator[list[Row]]:
        for start in range(0, len(self._rows), size):
            yield list(self._rows[start : start + size])


class Lines:
    """Reads a stream of bytes, a text per line: a part holds the lines that have arrived, up to its size.

    Nothing that was yielded is held, and nothing is read ahead but one piece of the stream.
    """

    total = identity = None

    def __init__(self, name: str, stream: Any, reading: Reading) -> None:
        self.name, self._stream, self._reading = name, stream, reading

    def parts(self, size: int) -> Iterator[list[Row]]:
        number = 0
        for lines in self._lines():
            for start in range(0, len(lines), size):
                part = lines[start : start + size]
                yield [self._row(place, line) for place, line in enumerate(part, number + 1)]
                number += len(part)

    def _lines(self) -> Iterator[list[str]]:
        """Yields the lines of each piece that arrives, without their ends."""
        # bytes that are not in the encoding become surrogates, which make a row with an error
        decoder = codecs.getincrementaldecoder(self._reading.codec)("surrogateescape")
        unfinished = io.StringIO()
        try:
            while piece := self._stream.read1(BYTES_AT_A_TIME):
                text = decoder.decode(piece)
                *lines, rest = text.split("\n")
                if lines:
                    lines[0] = unfinished.getvalue() + lines[0]
                    unfinished = io.StringIO()
                    yield [line.removesuffix("\r") for line in lines]
                unfinished.write(rest)
            if last := unfinished.getvalue() + decoder.decode(b"", final=True):
                yield [last.removesuffix("\r")]
        except UnicodeError as error:
            raise FileFormatError(f"{self.name} is not {self._reading.codec_name} text: {error}") from None

    def _row(self, number: int, line: str) -> Row:
        row = checked(f"line {number}", line)
        if row.error is None:
            return row
        return Row(row.place, row.text, error=f"the line is not {self._reading.codec_name} text")


def check_apart(output: Path, texts: Sequence[str] | None, read: Mapping[str, Path | None]) -> None:
    """Raises ValueError where an output is a file that the command reads, under this name or another.

    Writing it would destroy what was read, or feed a run with its own results.

    Args:
        texts: the arguments, as `source_of` takes them.
        read: other files that are read, by the options that name them; None where one is not given.
    """
    files: dict[str, Path | int | None] = {f"the file of {option}": path for option, path in read.items()}
    if _is_standard_input(texts):
        files["the file that standard input reads"] = 0
    elif texts and is_file(texts[0]):
        files["the input file"] = path_of(texts[0])
    for name, file in files.items():
        for written in (output, note_of(output)):
            with suppress(OSError):  # What is not there, or is closed, is not overwritten.
                if file is None or not os.path.samestat(found := os.stat(file), written.stat()):
                    continue
                if file != 0 or stat.S_ISREG(found.st_mode):  # A terminal is read and written.
                    raise ValueError(f"--output {output} writes {written}, which is {name}")


def check_read_once(texts: Sequence[str] | None, read: Mapping[str, Path | None]) -> None:
    """Raises ValueError where texts come from standard input, a pipe, and an option of `read` names it too.

    The arguments are those of `check_apart`.
    """
    if not _is_standard_input(texts):
        return
    for option, path in read.items():
        with suppress(OSError):
            found = None if path is None else os.stat(path)
            if found and not stat.S_ISREG(found.st_mode) and os.path.samestat(found, os.stat(0)):
                raise ValueError(f"{option} {path} is standard input, which the texts come from")


def _is_standard_input(texts: Sequence[str] | None) -> bool:
    return not texts or (len(texts) == 1 and texts[0] in STANDARD_INPUT)


def source_of(texts: Sequence[str] | None, reading: Reading) -> Source:
    """Returns what the arguments name: standard input, one file, or the texts themselves.

    Raises ValueError for a mistake, and where an argument is the name of a file that is not there.
    """
    if not texts or _is_standard_input(texts):
        return _standard_input(reading, asked_for=bool(texts))
    names = [text for text in texts if text in STANDARD_INPUT or is_file(text) or is_file_name(text)]
    if names and len(texts) > 1:
        raise ValueError(f"{names[0]} is a file: give one file, or texts only")
    if not names:
        if option := reading.given(*OF_COLUMNS):
            raise ValueError(f"{option} is for the columns of a file")
        if option := reading.given("--encoding", "--delimiter"):
            raise ValueError(f"{option} says how a file is read, and the arguments are the texts themselves")
        rows = [checked(f"text {number}", text) for number, text in enumerate(texts, 1)]
        return Known("arguments", rows, identity=json.dumps(texts))
    path = path_of(names[0])
    if not path.exists():
        raise FileFormatError(
            f"{path}: No such file{hint_of_pattern(path)}. What looks like a file's name must be one; a text "
            "that looks like it can be piped into standard input"
        )
    if path.is_dir():
        raise FileFormatError(f"{path} is a folder: give one file")
    identity = shown(str(path.resolve())) if path.is_file() else None  # a pipe may give other texts now
    return Known(str(path), read_rows(path, reading), identity)


def _standard_input(reading: Reading, asked_for: bool) -> Lines:
    if option := reading.given(*OF_COLUMNS, "--delimiter"):
        raise ValueError(f"{option} is for the columns of a file; standard input has a text per line")
    if sys.stdin is None:
        raise ValueError("standard input is closed: give texts or a file")
    if sys.stdin.isatty() and not asked_for:
        raise ValueError("give texts or a file, or pipe texts into standard input, one per line")
    return Lines("standard input", sys.stdin.buffer, reading)


def is_file(text: str) -> bool:
    """Tells whether a text names a regular file, or a pipe, that exists."""
    try:
        path = path_of(text)
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # it is too long, or has a zero byte
        return False


def is_file_name(text: str) -> bool:
    """Tells whether a text can only be meant as the name of a file, whether that exists or not.

    A word is one where it begins as a path does (/x ./x ../x ~/x), is . or .., or ends in a file's suffix.
    Two words are one where they end in a suffix that the command reads ("my reviews.csv"), and more words
    only where they also begin as a path. All else is a text: "I read it in notes.txt", "and/or", "node.js".
    """
    words, begins = text.split(" "), re.match(r"(~|\.{0,2})[/\\]|[A-Za-z]:[/\\](?!/)", text) is not None
    if len(text.split()) != len(words):  # line ends, tabs or several spaces
        return False
    if len(words) == 1:
        return begins or text in (".", "..") or text.lower().endswith(_FILE_SUFFIXES)
    return (begins or len(words) == 2) and kind_of(text) is not None
