"""Input files: .txt .csv .tsv .json .jsonl (each also as .gz) and .parquet become rows."""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any, TextIO

from gliclass_fast.checkpoint.documents import object_of_unique_names
from gliclass_fast.cli.rows import OF_COLUMNS, FileFormatError, Reading, Row, checked, shown

INPUT_SUFFIXES = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet")


def kind_of(name: str) -> str | None:
    """Returns the suffix that says how a file of this name is read, without .gz, or None."""
    name = name.lower()
    plain = name.removesuffix(".gz")
    suffix = next((each for each in INPUT_SUFFIXES if plain.endswith(each)), None)
    return None if suffix == ".parquet" and plain != name else suffix


def read_rows(path: Path, reading: Reading) -> list[Row]:
    """Reads a whole file, so that a mistake in its last row shows before the first is scored.

    A row whose text is null or no string is a row with an error. Raises FileFormatError for another suffix,
    an option that such a file has no use for, a missing or duplicated column, bytes that are not in the
    encoding, JSON or CSV that is not well formed.
    """
    kind = kind_of(path.name)
    if kind is None:
        raise FileFormatError(
            f"{path}: unknown file type; supported: {', '.join(INPUT_SUFFIXES)}, and .gz of all but .parquet"
        )
    check_options(path, reading)
    if kind == ".parquet":
        return list(_parquet(path, reading))
    readers: dict[str, Callable[[TextIO, Path, Reading], Iterator[Row]]] = {
        ".txt": _txt, ".csv": _csv, ".tsv": _csv, ".json": _json, ".jsonl": _jsonl,
    }  # fmt: skip
    try:
        with _open(path, reading.codec) as file:
            return list(readers[kind](file, path, reading))
    except UnicodeError as error:
        raise FileFormatError(
            f"{path}{_line_of(path, reading.codec) or ''} is not {reading.codec_name} text: "
            f"{getattr(error, 'reason', error)}. Name its encoding with --encoding"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(f"{path} is not a whole gzip file: {error}") from None


def check_options(path: Path, reading: Reading) -> None:
    """Raises FileFormatError where an option would change nothing, as files of this kind are without it."""
    kind = kind_of(path.name)
    if kind == ".txt" and (option := reading.given(*OF_COLUMNS)):
        raise FileFormatError(f"{path} has no columns; {option} is for files that have them")
    if kind not in (".csv", ".tsv") and reading.given("--delimiter"):
        raise FileFormatError(f"{path} is no .csv or .tsv file, which --delimiter is for")
    if kind == ".parquet" and reading.given("--encoding"):
        raise FileFormatError(
            f"{path} is a parquet file, whose texts are UTF-8; --encoding is for other files"
        )


def hint_of_pattern(path: Path) -> str:
    """Returns what to add to a message about a path that is not there: patterns are for the shell."""
    is_pattern = any(sign in str(path) for sign in "*?[")
    return " (a pattern in quotes is not resolved: name a file, or for batch a folder)" if is_pattern else ""


def _line_of(path: Path, codec: str) -> str | None:
    """Returns the line where decoding fails, as ", line 3", or None where that cannot be told.

    An error of a reader tells the place within some piece of the file.
    """
    if not path.is_file():  # A pipe cannot be read again.
        return None
    decoder, line = codecs.getincrementaldecoder(codec)(), 1
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for piece in iter(partial(file.read, 1 << 16), b""):
                line += decoder.decode(piece).count("\n")
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        # that of the error says which half of a pair comes first; those of escapes name none that there is
        own = codec if "escape" in codec else error.encoding
        before = error.object[: error.start].decode(own, "ignore")
        return f", line {line + before.count(chr(10))}"
    except (OSError, EOFError, zlib.error, UnicodeError):
        return None
    return None


def _open(path: Path, codec: str) -> TextIO:
    newline = "" if kind_of(path.name) in (".csv", ".tsv") else "\n"  # a carriage return alone ends no line
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding=codec, newline=newline)
    return path.open(encoding=codec, newline=newline)


def _txt(file: TextIO, path: Path, reading: Reading) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        yield checked(f"line {number}", line.removesuffix("\n").removesuffix("\r"))


def _csv(file: TextIO, path: Path, reading: Reading) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    delimiter = reading.delimiter or ("\t" if kind_of(path.name) == ".tsv" else ",")
    lines = csv.reader(file, delimiter=delimiter, strict=True)
    header: list[str] = []
    first = 1  # the line on which a record begins, which may have several
    blank: list[int] = []  # lines of a single column: they are empty texts, unless the file ends with them
    try:
        for cells in lines:
            if not header:
                header = cells
                if not header:
                    raise FileFormatError(f"{path}, line 1 is empty, but should name the columns")
                check_columns(path, header, reading)
            elif not cells:
                blank += [first] if len(header) == 1 else []
            elif len(cells) != len(header):
                raise FileFormatError(
                    f"{path}, line {first} has {len(cells)} cells, but the header has {len(header)}"
                )
            else:
                for line, own in [*((line, [""]) for line in blank), (first, cells)]:
                    record = dict(zip(header, own, strict=True))
                    yield checked(f"line {line}", record[reading.column], _other_columns(record, reading))
                blank.clear()
            first = lines.line_num + 1
    except csv.Error as error:
        reason = "a quote is never closed" if "end of data" in str(error) else str(error)
        raise FileFormatError(f"{path}, line {first} is not valid CSV: {reason}") from None
    if not header:
        raise FileFormatError(f"{path} is empty: its first line should name the columns")


def _jsonl(file: TextIO, path: Path, reading: Reading) -> Iterator[Row]:
    def records() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    record = json.loads(line.rstrip("\r\n"), object_pairs_hook=object_of_unique_names)
                    yield f"line {number}", record
                except json.JSONDecodeError as error:
                    reason = f"{error.msg} (column {error.colno})"
                    raise FileFormatError(f"{path}, line {number} is not valid JSON: {reason}") from None
                except (ValueError, RecursionError) as error:  # a number of very many digits is the former
                    raise FileFormatError(f"{path}, line {number} is not valid JSON: {error}") from None

    yield from _rows_of_records(records(), path, reading)


def _json(file: TextIO, path: Path, reading: Reading) -> Iterator[Row]:
    if not (content := file.read()):
        raise FileFormatError(f"{path} is empty: it must hold a list of strings or of objects")
    try:
        records = json.loads(content, object_pairs_hook=object_of_unique_names)
    except (ValueError, RecursionError) as error:
        hint = "; a value per line is .jsonl" if "Extra data" in str(error) else ""
        raise FileFormatError(f"{path} is not valid JSON: {error}{hint}") from None
    if not isinstance(records, list):
        raise FileFormatError(f"{path} must hold a list of strings or of objects")
    yield from _rows_of_records(
        ((f"row {number}", record) for number, record in enumerate(records, 1)), path, reading
    )


def _rows_of_records(records: Iterator[tuple[str, Any]], path: Path, reading: Reading) -> Iterator[Row]:
    """Makes a row of every string or object; an object without the key has a text that is null.

    Raises FileFormatError where there are records, and none has a key that is asked for.
    """
    keys: dict[str, None] = {}  # in the order of the first object
    place = ""
    for place, record in records:
        if isinstance(record, Mapping):
            keys |= dict.fromkeys(record)
            yield checked(place, record.get(reading.column), _other_columns(record, reading))
        else:
            yield checked(place, record, _other_columns({}, reading))
    wanted = reading.other_columns if not keys else (reading.column, *reading.other_columns)
    if place and (missing := [name for name in wanted if name not in keys]):
        raise FileFormatError(_no_column(path, missing[0], list(keys), reading))


def _parquet(path: Path, reading: Reading) -> Iterator[Row]:
    parquet = pyarrow_parquet()
    from gliclass_fast.text.arrow import values_of

    columns = list(dict.fromkeys((reading.column, *reading.other_columns)))
    with parquet_faults(f"{path} is not a parquet file that can be read"):
        check_columns(path, parquet.read_schema(path).names, reading)
        table = parquet.read_table(path, columns=columns)
    found = []
    for name in columns:
        with parquet_faults(f"{path}, column {name!r}, holds a value that cannot be read"):
            found.append(values_of(table[name]))
    for number, values in enumerate(zip(*found, strict=True), 1):
        record = dict(zip(columns, values, strict=True))
        yield checked(f"row {number}", record[reading.column], _other_columns(record, reading))


@contextmanager
def parquet_faults(fault: str) -> Iterator[None]:
    """Raises FileFormatError, which begins with `fault`, where pyarrow cannot make sense of a file."""
    from pyarrow import ArrowException

    try:
        yield
    except (FileFormatError, MemoryError, FileNotFoundError, PermissionError):
        raise
    except (ValueError, OverflowError, OSError, ArrowException) as error:  # a damaged page is an OSError
        raise FileFormatError(f"{fault}: {error}") from None


def _other_columns(record: Mapping[str, Any], reading: Reading) -> dict[str, Any]:
    return {name: _valid(record.get(name)) for name in reading.other_columns}


def _valid(value: Any) -> Any:
    """Returns a value as every result can hold it: NaN is null there, and strings are valid Unicode."""
    if isinstance(value, float) and isnan(value):
        return None
    return shown(value) if isinstance(value, str) else value


def check_columns(path: Path, names: Sequence[str], reading: Reading) -> None:
    """Raises FileFormatError unless a file has every column that is read, once."""
    for name in (reading.column, *reading.other_columns):
        if name not in names:
            raise FileFormatError(_no_column(path, name, names, reading))
        if names.count(name) > 1:
            raise FileFormatError(f"{path} has {names.count(name)} columns named {name!r}")


def _no_column(path: Path, column: str, names: Sequence[str], reading: Reading) -> str:
    plain = (name if name.isprintable() and name == name.strip() else repr(name) for name in names)
    found = ", ".join(plain) or "nothing"
    return f"{path} has no column {column!r} but: {found}. Choose one with {reading.option_of(column)}"


def pyarrow_parquet() -> Any:
    """Returns pyarrow.parquet; raises FileFormatError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise FileFormatError("parquet files need pyarrow: pip install 'gliclass-fast[data]'") from None
    return pyarrow.parquet
