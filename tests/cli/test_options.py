"""An option that would change nothing, and two that contradict each other, are mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from gliclass_fast.cli import app
from gliclass_fast.cli.console import DEVICES
from gliclass_fast.cli.options import reading_of
from gliclass_fast.ops import ORDER

MISTAKES = [
    ("classify text --labels a --column y", "--column is for the columns of a file"),
    ("classify text --labels a --encoding cp1252", "--encoding says how a file is read"),
    ("classify text --labels a --delimiter ;", "--delimiter says how a file is read"),
    ("classify --labels a --column y", "--column is for the columns of a file; standard input has"),
    ("classify - --labels a --delimiter ;", "--delimiter is for the columns of a file; standard input has"),
    ("classify in.txt --labels a --column y", "in.txt has no columns; --column is for files that have them"),
    ("classify in.txt --labels a --delimiter ;", "in.txt is no .csv or .tsv file"),
    ("classify in.jsonl --labels a --delimiter ;", "in.jsonl is no .csv or .tsv file"),
    ("classify in.parquet --labels a --delimiter tab", "in.parquet is no .csv or .tsv file"),
    ("classify in.parquet --labels a --encoding cp1252", "in.parquet is a parquet file, whose texts are"),
    ("classify in.csv --labels a --json --output out.csv", "--output writes them to a file instead"),
    ("classify *.csv --labels a", "*.csv: No such file (a pattern in quotes is not resolved"),
    ("classify empty.json --labels a", "empty.json is empty"),
    ("batch */in.csv --labels a --output out", "No such file or folder (a pattern in quotes is not resolved"),
    (
        "batch in.csv --labels a --output out --num-gpus 1 --device cpu",
        "--num-gpus 1 goes with --device cuda",
    ),
    ("batch in.parquet --labels a --output out --encoding cp1252", "in.parquet is a parquet file"),
    ("batch in.parquet --labels a --output out --delimiter ;", "in.parquet is no .csv or .tsv file"),
    ("batch in.jsonl --labels a --output out --delimiter ;", "in.jsonl is no .csv or .tsv file"),
    ("batch in.txt --labels a --output out --column y", "in.txt has no columns"),
    ("check --column y", "--column names a column of --texts FILE"),
    ("check --labels=", "--texts and --labels go with --quantization"),
    ("check --quantization int8 --labels=", "labels is empty"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_an_option_without_a_use_is_named(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("one\n")
    Path("in.csv").write_text("text,y\none,two\n")
    Path("in.jsonl").write_text('{"text": "one", "y": 1}\n')
    Path("empty.json").write_text("")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one"]}), "in.parquet")
    result = CliRunner().invoke(app.app, line.split(" "), input="")
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    "command", ["classify", "batch", "serve", "info", "check", "check --quantization int8"]
)
@pytest.mark.parametrize("device", ["tpu", "cuda:x", ""])
def test_every_command_refuses_a_device_that_there_is_not(
    command: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    files = {"classify": ["text", "--labels", "a"], "batch": ["in.csv", "--labels", "a", "--output", "out"]}
    name, *options = command.split(" ")
    result = CliRunner().invoke(app.app, [name, *files.get(name, []), *options, "--device", device])
    assert result.exit_code == 2, result.output
    assert f"error: unknown device {device!r}; choose one of: cuda, cpu" in result.stderr


def test_the_devices_are_those_of_the_operations() -> None:
    assert set(DEVICES) == set(ORDER)


def test_columns_to_keep_may_be_given_several_times() -> None:
    assert reading_of("text", ["id, date", "id,,key"], None, None).keep == ("id", "date", "key")
    assert reading_of("text", None, None, None).keep == ()
