"""Text files (.txt .csv .jsonl .parquet) and result files: a closed result file is always valid."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TextIO

from gliclass_fast.text.results import Prediction

INPUT_SUFFIXES = (".txt", ".csv", ".jsonl", ".parquet")
OUTPUT_SUFFIXES = (".jsonl", ".csv", ".parquet")


class FileFormatError(ValueError):
    """Reports a file that the command cannot read or write, and names it and what was expected."""


def read_texts(path: Path, column: str) -> list[str]:
    """Reads the texts of a file: the lines of .txt, else the column (or key) `column`.

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
    with path.open(encoding="utf-8-sig") as file:
        yield from (line.rstrip("\n") for line in file)


def _csv(path: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if column not in (reader.fieldnames or ()):
            raise FileFormatError(_no_column(path, column, reader.fieldnames))
        yield from (row[column] or "" for row in reader)


def _jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
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
    values = table.column(column).to_pylist()
    if not all(isinstance(text, str) or text is None for text in values):
        raise FileFormatError(f"{path}: column {column!r} is {table.schema.field(column).type}, not text")
    yield from (text or "" for text in values)


def _no_column(path: Path, column: str, names: Any) -> str:
    return f"{path} has no column {column!r} but: {', '.join(names or ['nothing'])}. Choose one with --column"


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise FileFormatError("parquet files need pyarrow: pip install 'gliclass-fast[data]'") from None
    return pyarrow.parquet


class RunNote:
    """Notes what a result file is made with, in a file beside it, for those who resume the run.

    A run goes on with the options it began with. It may go on in another dtype, on another device and in
    other batches, as they only change how exactly the same model is computed. int8 is one of the options: it
    rounds the weights themselves, and no text can force a run to leave it.
    """

    def __init__(self, output: Path, options: dict[str, Any], dtype: str) -> None:
        """options: JSON values by name."""
        self._path, self._options = output.with_name(f"{output.name}.options.json"), options
        self._output, self._dtypes = output, [dtype]

    def check(self, resume: bool) -> None:
        """Raises ValueError where an unfinished run would be lost, or resumed with other options."""
        if not (self._path.exists() and self._output.exists()):
            return
        try:
            before = json.loads(self._path.read_text(encoding="utf-8"))
            finished, options, dtypes = before["finished"], before["options"], before["dtypes"]
        except (ValueError, KeyError, TypeError):
            raise FileFormatError(f"{self._path} is damaged: delete it, or {self._output} as well") from None
        if not resume and not finished:
            raise ValueError(
                f"{self._output} holds the results of an unfinished run: add --resume, or delete it"
            )
        if "precision" in options:  # the name that notes of 0.1.0 have
            options["quantization"] = options.pop("precision")
        other = [name for name in self._options if self._options[name] != options.get(name)]
        if resume and other:
            raise ValueError(
                f"{self._output} was made with other options; --resume continues with the same: "
                f"{', '.join(other)} (see {self._path.name})"
            )
        if resume:
            self._dtypes = list(dict.fromkeys([*dtypes, *self._dtypes]))

    def write(self, finished: bool = False) -> None:
        note = {"finished": finished, "options": self._options, "dtypes": self._dtypes}
        self._path.write_text(json.dumps(note, ensure_ascii=False) + "\n", encoding="utf-8")


class ResultWriter(Protocol):
    """Appends results. Nothing is written, and nothing that exists is touched, before `start`."""

    kept: list[str]  # texts of the results that the file already held and keeps

    def __init__(self, path: Path, resume: bool) -> None: ...

    def start(self) -> None:
        """Opens the file, with what is kept; further calls do nothing."""
        ...

    def write(self, text: str, predictions: list[Prediction]) -> None: ...

    def close(self) -> None: ...


def open_writer(path: Path, resume: bool) -> ResultWriter:
    """Returns a writer for `path`, which continues what is there with `resume`, else starts anew.

    Raises FileFormatError for a suffix that is not supported, or a file that is not a result to continue.
    """
    writers: dict[str, type[ResultWriter]] = {
        ".jsonl": _JsonlWriter,
        ".csv": _CsvWriter,
        ".parquet": _ParquetWriter,
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise FileFormatError(f"{path}: unknown result type; supported: {', '.join(OUTPUT_SUFFIXES)}")
    try:
        return writer(path, resume)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError):
        raise FileFormatError(f"{path} is not a result of this command: it cannot be continued") from None


class _LineWriter:
    """Writes a text file of records; on resume it drops a record that a killed run left unfinished."""

    def __init__(self, path: Path, resume: bool) -> None:
        self._path = path
        self._head = self._whole_records(path.read_bytes()) if resume and path.exists() else b""
        self.kept = self._texts(self._head.decode("utf-8"))
        self._file: TextIO | None = None

    def _whole_records(self, content: bytes) -> bytes:
        raise NotImplementedError

    def _texts(self, content: str) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        if self._file is None:
            self._path.write_bytes(self._head)
            self._file = self._path.open("a", encoding="utf-8", newline="")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _JsonlWriter(_LineWriter):
    def _whole_records(self, content: bytes) -> bytes:
        return content[: content.rfind(b"\n") + 1]

    def _texts(self, content: str) -> list[str]:
        return [json.loads(line)["text"] for line in content.split("\n") if line]

    def write(self, text: str, predictions: list[Prediction]) -> None:
        assert self._file is not None
        self._file.write(json.dumps({"text": text, "predictions": predictions}, ensure_ascii=False) + "\n")


class _CsvWriter(_LineWriter):
    """Writes one row per text; "|" joins the labels and the scores of its predictions."""

    def _whole_records(self, content: bytes) -> bytes:
        """Keeps what ends with a line end outside quotes; cells double their quotes, so parity tells."""
        end = place = quotes = 0
        for line in io.BytesIO(content):
            place += len(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0 and line.endswith(b"\n"):
                end = place
        return content[:end]

    def _texts(self, content: str) -> list[str]:
        return [row[0] for row in csv.reader(io.StringIO(content, newline=""))][1:]

    def write(self, text: str, predictions: list[Prediction]) -> None:
        assert self._file is not None
        rows = csv.writer(self._file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        if self._file.tell() == 0:
            rows.writerow(["text", "labels", "scores"])
        labels = "|".join(each["label"] for each in predictions)
        rows.writerow([text, labels, "|".join(f"{each['score']:.6f}" for each in predictions)])


class _ParquetWriter:
    """Collects rows and writes the file on `close`: a parquet file cannot be appended to."""

    def __init__(self, path: Path, resume: bool) -> None:
        self._parquet = _pyarrow_parquet()
        self._path, self._started = path, False
        kept = resume and path.exists()
        self._rows: list[dict[str, Any]] = self._parquet.read_table(path).to_pylist() if kept else []
        self.kept = [row["text"] for row in self._rows]

    def start(self) -> None:
        self._started = True

    def write(self, text: str, predictions: list[Prediction]) -> None:
        labels, scores = [each["label"] for each in predictions], [each["score"] for each in predictions]
        self._rows.append({"text": text, "labels": labels, "scores": scores})

    def close(self) -> None:
        if not self._started:
            return
        import pyarrow

        columns = [("text", pyarrow.string()), ("labels", pyarrow.list_(pyarrow.string()))]
        schema = pyarrow.schema([*columns, ("scores", pyarrow.list_(pyarrow.float32()))])
        partial = self._path.with_suffix(".parquet.partial")
        self._parquet.write_table(pyarrow.Table.from_pylist(self._rows, schema=schema), partial)
        partial.replace(self._path)
