"""An option that would change nothing, and two that contradict each other, are mistakes in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from gliclass_fast.cli import app
from gliclass_fast.cli.console import DEVICES
from gliclass_fast.cli.options import examples_in, labels_of, reading_of
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


@pytest.mark.parametrize(
    ("line", "option"),
    [
        ("classify x --labels a --threshold 0 --threshold 1", "--threshold"),
        ("classify x --labels a -o a.csv --output=b.csv", "--output/-o"),
        ("classify x --labels a --precision int8 --quantization int8", "--quantization/--precision"),
        ("batch x --labels-file a --labels-file b -o out", "--labels-file"),
        ("serve --port 1 --port 2", "--port"),
        ("bench --peers none --peers all", "--peers"),
        ("check --texts a --texts b", "--texts"),
        ("info --device cpu --device cpu", "--device"),
    ],
)
def test_an_option_with_one_value_is_given_once(line: str, option: str) -> None:
    result = CliRunner().invoke(app.app, line.split(" "))
    assert result.exit_code == 2 and f"{option} is given more than once" in result.stderr


def test_labels_may_be_given_several_times() -> None:
    assert labels_of(["a, b", "c", ""], None) == ["a", "b", "c"]
    for neither_or_both in ((None, None), ([], None), (["a"], Path("labels.json"))):
        with pytest.raises(ValueError, match="give the labels either as"):
            labels_of(*neither_or_both)


@pytest.mark.parametrize(
    "line",
    [
        "classify x --labels-file",
        "classify x --labels a --examples",
        "serve --labels-file",
        "serve --config",
        "serve --api-key-file",
        "check --quantization int8 --texts",
    ],
)
def test_a_file_that_cannot_be_opened_is_named_with_its_option(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    option, folder = line.split(" ")[-1], tmp_path / "a.txt"
    folder.mkdir()
    for path, reason in ((folder, "it is a folder"), (tmp_path / "no.txt", "No such file or directory")):
        result = CliRunner().invoke(app.app, [*line.split(" "), str(path)])
        assert result.exit_code == 2 and result.stderr == f"error: {option} {path}: {reason}\n"


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("[{}]", "example 1 has no 'text'"),
        ('[{"text": "a", "labels": ["b"]}, {"text": "a"}]', "example 2 has no 'labels'"),
        ('[{"labels": ["b"]}]', "example 1 has no 'text'"),
        ('[["a"]]', "example 1 has no 'text'"),
        ('{"text": "a", "labels": ["b"]}', "must hold a list of"),
        ('[{"text": "a", "labels": [], "labels": ["b"]}]', "an object has the name 'labels' twice"),
    ],
)
def test_examples_have_a_text_and_labels(examples: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "examples.json"
    path.write_text(examples)
    with pytest.raises(ValueError, match=message):
        examples_in(path)


def test_columns_to_keep_may_be_given_several_times() -> None:
    assert reading_of("text", ["id, date", "id,,key"], None, None).keep == ("id", "date", "key")
    assert reading_of("text", None, None, None).keep == ()


@pytest.mark.parametrize("command", [["classify", "a text", "--labels", "a"], ["info"]])
def test_a_command_warns_of_a_gpu_that_was_named_and_is_not_there(
    command: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for options, warnings in (([], 0), (["--device", "cpu"], 0), (["--device", "cuda"], 1)):
        caplog.clear()
        assert CliRunner().invoke(app.app, [*command, *options]).exit_code == 0
        assert sum("runs on the CPU" in message for message in caplog.messages) == warnings


@pytest.mark.parametrize("command", ["", "classify", "batch", "serve", "info", "check", "bench"])
def test_h_is_help(command: str) -> None:
    long, short = (CliRunner().invoke(app.app, [*command.split(), option]) for option in ("--help", "-h"))
    assert short.exit_code == 0 and short.stdout == long.stdout and "Usage" in short.stdout


def test_a_result_file_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    output.touch()
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    result = CliRunner().invoke(app.app, ["classify", "a", "--labels", "a", "--output", str(output)])
    assert result.exit_code == 2 and "cannot be written: it is read-only" in " ".join(result.stderr.split())
