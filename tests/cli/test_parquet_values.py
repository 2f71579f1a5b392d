"""Columns of parquet that are kept: no digit is lost, and a value that cannot be read names its column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gliclass_fast.cli import app
from gliclass_fast.cli.readers import read_rows
from gliclass_fast.cli.rows import FileFormatError, Reading

pyarrow: Any = pytest.importorskip("pyarrow", exc_type=ImportError)


def table(path: Path, **columns: Any) -> Path:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["play", "stop"], **columns}), path)
    return path


def kept(path: Path, columns: str, output: Path) -> Result:
    options = ["--labels", "music", "--device", "cpu", "--keep", columns, "--output", str(output)]
    return CliRunner().invoke(app.app, ["classify", str(path), *options])


def test_times_keep_their_nanoseconds(tmp_path: Path) -> None:
    import pyarrow.parquet

    columns = {
        "moment": pyarrow.array([1577836800000000001, None], pyarrow.timestamp("ns")),
        "there": pyarrow.array([1577836800000000001, None], pyarrow.timestamp("ns", "Europe/Paris")),
        "took": pyarrow.array([None, 1000000001], pyarrow.duration("ns")),
        "moments": pyarrow.array([[1577836800000000001], []], pyarrow.list_(pyarrow.timestamp("ns"))),
        "both": pyarrow.array(
            [{"at": 1577836800000000001, "took": [1000000001]}, None],
            pyarrow.struct(
                [("at", pyarrow.timestamp("ns")), ("took", pyarrow.list_(pyarrow.duration("ns")))]
            ),
        ),
        "micro": pyarrow.array([1577836800000001, None], pyarrow.timestamp("us")),
    }
    path, output = table(tmp_path / "in.parquet", **columns), tmp_path / "out.parquet"
    assert kept(path, ",".join(columns), output).exit_code == 0
    found = pyarrow.parquet.read_table(output)
    for name, column in columns.items():
        assert found[name].type == column.type and found[name].to_pylist() == column.to_pylist()


def test_times_beside_other_values_become_strings(tmp_path: Path) -> None:
    import pandas

    from gliclass_fast.cli.writers import _column

    moment = pandas.Timestamp(1577836800000000001)
    assert _column([moment, "x", None], None).to_pylist() == [str(moment), "x", None]


def test_a_value_that_cannot_be_read_names_its_column(tmp_path: Path) -> None:
    far = pyarrow.array([0, 400000 * 365 * 86400], pyarrow.timestamp("s"))
    path = table(tmp_path / "in.parquet", far=far)
    message = r"in\.parquet, column 'far', holds a value that cannot be read: .*out of range"
    with pytest.raises(FileFormatError, match=message):
        read_rows(path, Reading(keep=("far",)))
    assert [row.text for row in read_rows(path, Reading())] == ["play", "stop"]
