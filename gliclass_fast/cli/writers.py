"""Result files (.jsonl .csv .parquet): a closed result file is always valid."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any, Protocol, TextIO

from gliclass_fast.cli.readers import pyarrow_parquet
from gliclass_fast.cli.results import Kept, Layout, Record, json_line
from gliclass_fast.cli.rows import FileFormatError, shown

OUTPUT_SUFFIXES = (".jsonl", ".csv", ".parquet")


class Writer(Protocol):
    """Takes results. Nothing is written, and nothing that exists is touched, before `start`."""

    kept: list[Kept]  # the results that were there already and stay

    def start(self) -> None:
        """Opens the file, with what is kept; further calls do nothing."""
        ...

    def write(self, record: Record) -> None: ...

    def flush(self) -> None:
        """Shows what was written to whoever reads along."""
        ...

    def close(self) -> None: ...


def check_suffix(path: Path) -> None:
    """Raises FileFormatError for a file of results whose suffix is not supported."""
    if path.suffix.lower() not in OUTPUT_SUFFIXES:
        raise FileFormatError(f"{path}: unknown result type; supported: {', '.join(OUTPUT_SUFFIXES)}")


def open_writer(path: Path, resume: bool, layout: Layout | None = None) -> Writer:
    """Returns a writer for `path`, which continues what is there with `resume`, else starts anew.

    Raises FileFormatError for a suffix that is not supported, or a file that is not a result to continue.
    """
    check_suffix(path)
    writers: dict[str, type[JsonlWriter] | type[CsvWriter] | type[ParquetWriter]] = {
        ".jsonl": JsonlWriter,
        ".csv": CsvWriter,
        ".parquet": ParquetWriter,
    }
    try:
        return writers[path.suffix.lower()](path, resume, layout or Layout())
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, IndexError, csv.Error):
        raise FileFormatError(
            f"{path} is not a result of this command with these columns: it cannot be continued"
        ) from None


class _FileWriter:
    """Writes a text file of records; on resume it drops a record that a killed run left unfinished."""

    def __init__(self, path: Path, resume: bool, layout: Layout) -> None:
        self._path, self._layout = path, layout
        self._head = self._whole_records(path.read_bytes()) if resume and path.exists() else b""
        self.kept = [layout.kept(record) for record in self._records(self._head.decode("utf-8"))]
        self._file: TextIO | None = None

    def _begin(self) -> None:
        """Writes what stands before the first record."""

    def _whole_records(self, content: bytes) -> bytes:
        raise NotImplementedError

    def _records(self, content: str) -> list[Record]:
        raise NotImplementedError

    def start(self) -> None:
        if self._file is None:
            # what is kept stays where it is: written anew, it would be lost where that fails
            self._file = self._path.open("a", encoding="utf-8", newline="")
            self._file.truncate(len(self._head))
            self._file.seek(0, io.SEEK_END)
            if not self._head:
                self._begin()

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class JsonlWriter(_FileWriter):
    """Writes one object per line."""

    def _whole_records(self, content: bytes) -> bytes:
        return content[: content.rfind(b"\n") + 1]

    def _records(self, content: str) -> list[Record]:
        return [json.loads(line) for line in content.split("\n") if line]

    def write(self, record: Record) -> None:
        assert self._file is not None
        self._file.write(json_line(record))


class CsvWriter(_FileWriter):
    """Writes one row per result; "|" joins the labels and the scores of its predictions."""

    def _whole_records(self, content: bytes) -> bytes:
        """Keeps what ends with a line end outside quotes; cells double their quotes, so parity tells."""
        end = place = quotes = 0
        for line in io.BytesIO(content):
            place += len(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0 and line.endswith(b"\n"):
                end = place
        return content[:end]

    def _records(self, content: str) -> list[Record]:
        csv.field_size_limit(sys.maxsize)
        lines = csv.reader(io.StringIO(content, newline=""))
        if content and next(lines) != self._columns:
            raise KeyError("columns")
        return [dict(zip(self._columns, cells, strict=True)) for cells in lines]

    @property
    def _columns(self) -> list[str]:
        return [*self._layout.own_columns, "labels", "scores", "error"]

    def _begin(self) -> None:
        self._line(self._columns)

    def _line(self, cells: list[Any]) -> None:
        csv.writer(self._file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(cells)  # type: ignore[arg-type]

    def write(self, record: Record) -> None:
        found = record["predictions"] or ()
        labels = "|".join(each["label"] for each in found)
        scores = "|".join(f"{each['score']:.6f}" for each in found)
        own = [record[name] for name in self._layout.own_columns]
        self._line([*own, labels, scores, record.get("error")])


class ParquetWriter:
    """Collects results and writes the file on `close`: a parquet file cannot be appended to."""

    def __init__(self, path: Path, resume: bool, layout: Layout) -> None:
        self._parquet = pyarrow_parquet()
        # where a link leads, as the file is replaced
        self._path, self._layout, self._started = path.resolve(), layout, False
        self._anew = not (resume and path.exists())
        self._rows: list[Record] = [] if self._anew else self._parquet.read_table(path).to_pylist()
        self.kept = [layout.kept(row) for row in self._rows]

    def start(self) -> None:
        if self._anew and not self._started:
            self._path.unlink(missing_ok=True)
        self._started = True

    def write(self, record: Record) -> None:
        row: Record = {name: record[name] for name in self._layout.own_columns}
        found = record["predictions"]
        row["labels"] = None if found is None else [each["label"] for each in found]
        row["scores"] = None if found is None else [each["score"] for each in found]
        self._rows.append({**row, "error": record.get("error")})

    def flush(self) -> None:
        """Does nothing: the file is written on `close`."""

    def close(self) -> None:
        if not self._started:
            return
        import pyarrow

        strings, numbers = pyarrow.list_(pyarrow.string()), pyarrow.list_(pyarrow.float32())
        types = {"text": pyarrow.string(), "labels": strings, "scores": numbers, "error": pyarrow.string()}
        names = [*self._layout.own_columns, "labels", "scores", "error"]
        columns = {name: _column([row.get(name) for row in self._rows], types.get(name)) for name in names}
        partial = self._path.with_suffix(".parquet.partial")
        try:
            self._parquet.write_table(pyarrow.table(columns), partial)
            partial.replace(self._path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _column(values: list[Any], kind: Any) -> Any:
    """Returns values as an array of parquet; those of several types, or of none it has, become strings."""
    import pyarrow

    try:
        array = pyarrow.array(values, kind)
        if kind is None and _has_nanoseconds(values):
            array = pyarrow.array(values, _in_nanoseconds(array.type))
        pyarrow_parquet().write_table(pyarrow.table({"": array[:0]}), io.BytesIO())
        return array
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return pyarrow.array([None if value is None else shown(str(value)) for value in values])


def _has_nanoseconds(value: Any) -> bool:
    """Tells whether times and durations of pandas are in it that pyarrow would round to microseconds."""
    if isinstance(value, (list, dict)):
        return any(map(_has_nanoseconds, value.values() if isinstance(value, dict) else value))
    return bool(getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0))


def _in_nanoseconds(kind: Any) -> Any:
    """Returns a type of pyarrow with all its times and durations in nanoseconds."""
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(kind):
        return pyarrow.timestamp("ns", kind.tz)
    if types.is_duration(kind):
        return pyarrow.duration("ns")
    if types.is_list(kind):
        return pyarrow.list_(_in_nanoseconds(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([(each.name, _in_nanoseconds(each.type)) for each in kind])
    return kind
