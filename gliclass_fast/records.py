"""Text files in, result files out: .txt .csv .jsonl .parquet; a result file is valid at any moment it is
closed.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from gliclass_fast.results import Prediction

INPUT_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
OUTPUT_SUFFIXES = (".jsonl", ".csv", ".parquet")


class FileFormatError(ValueError):
    """A file the command cannot read or write; the message names it and what was expected."""


def read_texts(path: Path, column: str) -> list[str]:
    """The texts of a file: lines of .txt, else the column (or key) `column`.

    Raises FileFormatError for another suffix, a missing column, a row that is not valid, or bytes that are
    not UTF-8.
    """
    readers = {".txt": _txt, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise FileFormatError(f"{path}: unknown file type; supported: {', '.join(INPUT_SUFFIXES)}")
    try:
        return list(reader(path, column))
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 text: {error}") from None


def _txt(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


def _csv(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or ()):
            raise FileFormatError(_no_column(path, column, reader.fieldnames))
        yield from (row[column] or "" for row in reader)


def _jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise FileFormatError(f"{path}, line {number} is not valid JSON: {error}") from None
            text = row if isinstance(row, str) else row.get(column) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise FileFormatError(
                    f"{path}, line {number}: expected a string, or an object with a string {column!r}"
                )
            yield text


def _parquet(path: Path, column: str) -> Iterator[str]:
    parquet = _pyarrow_parquet()
    table = parquet.read_table(path)
    if column not in table.column_names:
        raise FileFormatError(_no_column(path, column, table.column_names))
    yield from (text or "" for text in table.column(column).to_pylist())


def _no_column(path: Path, column: str, names: Any) -> str:
    return f"{path} has no column {column!r} but: {', '.join(names or ['nothing'])}. Choose one with --column"


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise FileFormatError("parquet files need pyarrow: pip install 'gliclass-fast[data]'") from None
    return pyarrow.parquet


class ResultWriter(Protocol):
    """Appends results; `done` is the number of texts the file already held when it was opened."""

    done: int

    def __init__(self, path: Path, resume: bool) -> None: ...

    def write(self, text: str, predictions: list[Prediction]) -> None: ...

    def close(self) -> None: ...


def open_writer(path: Path, resume: bool) -> ResultWriter:
    """A writer for `path`, continuing what is there with `resume`, else starting anew.

    Raises FileFormatError for a suffix that is not supported.
    """
    writers: dict[str, type[ResultWriter]] = {
        ".jsonl": _JsonlWriter,
        ".csv": _CsvWriter,
        ".parquet": _ParquetWriter,
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise FileFormatError(f"{path}: unknown result type; supported: {', '.join(OUTPUT_SUFFIXES)}")
    return writer(path, resume)


class _LineWriter:
    """A text file whose last, unfinished line (of a run that was killed) is dropped on resume."""

    def __init__(self, path: Path, resume: bool) -> None:
        kept = b""
        if resume and path.exists():
            content = path.read_bytes()
            kept = content[: content.rfind(b"\n") + 1]
        self.done = self._count(kept.decode("utf-8"))
        with path.open("wb") as file:
            file.write(kept)
        self._file = path.open("a", encoding="utf-8", newline="")

    def _count(self, kept: str) -> int:
        raise NotImplementedError

    def close(self) -> None:
        self._file.close()


class _JsonlWriter(_LineWriter):
    def _count(self, kept: str) -> int:
        return kept.count("\n")

    def write(self, text: str, predictions: list[Prediction]) -> None:
        self._file.write(json.dumps({"text": text, "predictions": predictions}, ensure_ascii=False) + "\n")


class _CsvWriter(_LineWriter):
    """One row per text; labels and scores of its predictions are joined by "|"."""

    def _count(self, kept: str) -> int:
        return max(sum(1 for _ in csv.reader(kept.splitlines(keepends=True))) - 1, 0)

    def write(self, text: str, predictions: list[Prediction]) -> None:
        rows = csv.writer(self._file, lineterminator="\n")
        if self._file.tell() == 0:
            rows.writerow(["text", "labels", "scores"])
        labels = "|".join(each["label"] for each in predictions)
        rows.writerow([text, labels, "|".join(f"{each['score']:.6f}" for each in predictions)])


class _ParquetWriter:
    """Collects rows and writes the file on `close`: a parquet file cannot be appended to."""

    def __init__(self, path: Path, resume: bool) -> None:
        self._parquet = _pyarrow_parquet()
        self._path = path
        self._rows: list[dict[str, Any]] = (
            self._parquet.read_table(path).to_pylist() if resume and path.exists() else []
        )
        self.done = len(self._rows)

    def write(self, text: str, predictions: list[Prediction]) -> None:
        labels, scores = [each["label"] for each in predictions], [each["score"] for each in predictions]
        self._rows.append({"text": text, "labels": labels, "scores": scores})

    def close(self) -> None:
        import pyarrow

        schema = pyarrow.schema(
            [
                ("text", pyarrow.string()),
                ("labels", pyarrow.list_(pyarrow.string())),
                ("scores", pyarrow.list_(pyarrow.float32())),
            ]
        )
        partial = self._path.with_suffix(".parquet.partial")
        self._parquet.write_table(pyarrow.Table.from_pylist(self._rows, schema=schema), partial)
        partial.replace(self._path)
