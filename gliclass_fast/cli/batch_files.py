"""The files of a batch job: a file or a folder of one kind, in pieces that workers read by themselves."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from gliclass_fast.cli.readers import (
    check_columns,
    check_options,
    hint_of_pattern,
    kind_of,
    parquet_faults,
    pyarrow_parquet,
    read_rows,
)
from gliclass_fast.cli.rows import FileFormatError, Reading, Row, checked, shown
from gliclass_fast.text.arrow import values_of

ROWS_AT_A_TIME = 1024
ROWS_PER_FILE = 1 << 40  # more than any file has, so that ids of rows never meet


@dataclass(frozen=True, slots=True)
class Piece:
    """Names rows that are read together: a whole file, or a row group of parquet."""

    path: Path
    name: str  # of the file, from the input's folder on
    number: int  # of the file
    group: int | None = None
    first: int = 0  # rows of the file before these
    kinds: Mapping[str, Any] = field(default_factory=dict)  # types of columns to keep, over all row groups


@dataclass(frozen=True, slots=True)
class Files:
    """Holds the pieces of an input, its number of rows, and what tells whether it has changed."""

    pieces: tuple[Piece, ...]
    rows: int
    state: dict[str, Any]


def files_of(source: Path, reading: Reading, output: Path) -> Files:
    """Looks through an input before the first text is scored.

    The ids of rows are made of the number of the file, in the order of names, and of the row. So they are the
    same in every run over the same files, which `state` tells: names, sizes and times of change.

    Raises FileFormatError for what cannot be read, a missing column, files of several kinds, no texts, and
    an output that lies in the input.
    """
    paths = _paths(source, output.resolve())
    root = source if source.is_dir() else source.parent
    pieces: list[Piece] = []
    kinds: dict[str, tuple[Any, str]] = {}  # of the columns to keep, and the file that tells
    rows = 0
    for number, path in enumerate(paths):
        name = shown(path.relative_to(root).as_posix())
        if kind_of(path.name) == ".parquet":
            counts = _groups(path, name, reading, kinds)
            firsts = [sum(counts[:group]) for group in range(len(counts))]
            pieces += [Piece(path, name, number, group, first) for group, first in enumerate(firsts)]
            rows += sum(counts)
        else:
            rows += len(read_rows(path, reading))
            pieces.append(Piece(path, name, number))
    if not rows:
        raise FileFormatError(f"{source} has no texts")
    of_all = {column: kind for column, (kind, _) in kinds.items()}
    return Files(tuple(replace(piece, kinds=of_all) for piece in pieces), rows, _state(paths, root))


def _paths(source: Path, output: Path) -> list[Path]:
    """Returns the files in the order of their names; what begins with . or _ is not data."""
    if not source.exists():
        raise FileFormatError(f"{source}: No such file or folder{hint_of_pattern(source)}")
    if not source.is_dir():
        kinds, paths = {kind_of(source.name)}, [source]
    else:
        paths = sorted(_below(source, output))
        kinds = {kind_of(path.name) for path in paths}
    if not paths:
        raise FileFormatError(f"{source} has no files")
    if len(kinds) > 1:
        other = next(path for path in paths if kind_of(path.name) != kind_of(paths[0].name))
        raise FileFormatError(f"{source} holds files of several kinds: {paths[0].name}, {other.name}")
    if None in kinds:
        read_rows(paths[0], Reading())  # says what it reads
    return paths


def _below(source: Path, output: Path) -> Iterator[Path]:
    """Yields the files of a folder at any depth. Links are followed, but no folder is read twice.

    Raises FileFormatError for what cannot be opened, as its texts would be missing without a word, and where
    the output lies in a folder that is read.
    """
    known = {os.path.realpath(source)}
    for at, folders, names in os.walk(source, onerror=_unreadable, followlinks=True):
        visible, folders[:] = sorted(name for name in folders if name[0] not in "._"), []
        for name in visible:
            real = os.path.realpath(os.path.join(at, name))
            if output.is_relative_to(real):
                raise FileFormatError(f"--output {output} lies in {Path(at, name)}, a folder of the input")
            if real not in known:
                known.add(real)
                folders.append(name)
        for path in (Path(at, name) for name in names if name[0] not in "._"):
            if not path.is_file():
                raise FileFormatError(f"{path} is no file that can be opened: is it a link to nothing?")
            yield path


def _unreadable(error: OSError) -> NoReturn:
    raise FileFormatError(f"{error.filename} is a folder that cannot be read: {error.strerror}") from None


def _groups(path: Path, name: str, reading: Reading, kinds: dict[str, tuple[Any, str]]) -> list[int]:
    """Returns the numbers of rows of a parquet file's row groups, and notes the kinds of columns to keep."""
    check_options(path, reading)
    parquet = pyarrow_parquet()
    with parquet_faults(f"{path} is not a parquet file that can be read"):
        metadata, schema = parquet.read_metadata(path), parquet.read_schema(path)
    check_columns(path, schema.names, reading)
    for column in reading.keep:
        own = _plain(schema.empty_table()[column].combine_chunks()).type
        kind, first = kinds.get(column, (own, name))
        common = _common(own, kind)
        if common is None:
            raise FileFormatError(f"column {column!r} is {own} in {name}, but {kind} in {first}")
        kinds[column] = (common, first if common == kind else name)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _common(one: Any, other: Any) -> Any:
    """Returns the type of pyarrow that the values of both can be cast to, or None.

    A column without any value has the type null, which fits every other, also as the type of lists' values.
    """
    import pyarrow

    schemas = [pyarrow.schema([("", each)]) for each in (one, other)]
    try:
        both = pyarrow.unify_schemas(schemas).field(0).type
        for each in (one, other):  # older versions of pyarrow unite structs that they cannot cast
            pyarrow.nulls(0, each).cast(both)
    except pyarrow.ArrowException:
        return None
    return both


def _state(paths: Sequence[Path], root: Path) -> dict[str, Any]:
    found = [(path.relative_to(root).as_posix(), path.stat()) for path in paths]
    listed = [[name, each.st_size, each.st_mtime_ns] for name, each in found]
    return {
        "files": len(paths), "bytes": sum(each.st_size for _, each in found),
        "digest": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
    }  # fmt: skip


def tables(piece: Piece, reading: Reading) -> Iterator[Any]:
    """Yields the rows of a piece as tables of pyarrow: row_id, file, row, columns to keep, text and error."""
    first = piece.first
    for rows, kept in _parquet(piece, reading) if piece.group is not None else _other(piece, reading):
        yield _table(piece, first, rows, kept)
        first += len(rows)


def _parquet(piece: Piece, reading: Reading) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    for batch in _batches(piece, list(dict.fromkeys([reading.column, *reading.keep]))):
        rows = [checked("", text) for text in values_of(batch[reading.column])]
        kept = {name: _valid(_plain(batch[name]), name, piece) for name in reading.keep}
        # null in this piece alone, perhaps; a cast to its own type copies nothing
        yield rows, {name: column.cast(piece.kinds[name]) for name, column in kept.items()}


def _batches(piece: Piece, columns: list[str]) -> Iterator[Any]:
    with (
        parquet_faults(f"{piece.name}, row group {piece.group} cannot be read"),  # a damaged page
        pyarrow_parquet().ParquetFile(piece.path) as file,
    ):
        yield from file.iter_batches(ROWS_AT_A_TIME, row_groups=[piece.group], columns=columns)


def _valid(column: Any, name: str, piece: Piece) -> Any:
    """Returns a column to keep with escapes for what is not UTF-8, as other programs cannot read it."""
    import pyarrow

    try:
        column.validate(full=True)
    except pyarrow.ArrowInvalid as error:
        if not str(column.type).endswith("string"):
            raise FileFormatError(f"column {name!r} of {piece.name} is not valid: {error}") from None
        values = [value if value is None else shown(value) for value in values_of(column)]
        return pyarrow.array(values, column.type)
    return column


def _plain(column: Any) -> Any:
    """Returns a column without a dictionary, as blocks of other row groups may have another one."""
    return column.dictionary_decode() if str(column.type).startswith("dictionary") else column


def _other(piece: Piece, reading: Reading) -> Iterator[tuple[list[Row], dict[str, Any]]]:
    """Keeps columns as strings, so that all blocks have the same types: what is no string is JSON."""
    import pyarrow

    rows = read_rows(piece.path, reading)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        part = rows[start : start + ROWS_AT_A_TIME]
        kept = {name: [_string(row.kept[name]) for row in part] for name in reading.keep}
        yield part, {name: pyarrow.array(values, pyarrow.string()) for name, values in kept.items()}


def _string(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else shown(json.dumps(value, ensure_ascii=False))


def _table(piece: Piece, first: int, rows: list[Row], kept: dict[str, Any]) -> Any:
    import pyarrow

    numbers = range(first + 1, first + len(rows) + 1)
    ids = [piece.number * ROWS_PER_FILE + number for number in numbers]
    return pyarrow.table(
        {
            "row_id": pyarrow.array(ids, pyarrow.int64()),
            "file": pyarrow.array([piece.name] * len(rows), pyarrow.string()),
            "row": pyarrow.array(numbers, pyarrow.int64()),
            **kept,
            "text": pyarrow.array([row.text for row in rows], pyarrow.string()),
            "error": pyarrow.array([row.error for row in rows], pyarrow.string()),
        }
    )
