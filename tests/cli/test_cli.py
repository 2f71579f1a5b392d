"""The command line does what a person expects, with the demo checkpoint."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import gliclass_fast
from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.bench import selfcheck
from gliclass_fast.cli import app, classify
from gliclass_fast.cli.job import INTERRUPTED
from gliclass_fast.cli.readers import INPUT_SUFFIXES
from gliclass_fast.cli.writers import OUTPUT_SUFFIXES, open_writer
from gliclass_fast.ops import IMPLEMENTATIONS

LABELS = ["--labels", "positive review,negative review", "--device", "cpu"]
TEXTS = ["I loved this film.", "A dull, lifeless mess.", "", "play some jazz"]


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app.app, list(arguments), **options)


def kept(output: Path) -> list[str]:
    """Returns the texts of a result file that a run goes on with."""
    return [each.own[0] for each in open_writer(output, resume=True).kept]


def json_lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_texts_as_arguments_in_a_pipe_give_json_lines() -> None:
    result = run("classify", *TEXTS[:2], *LABELS, "--single")
    assert result.exit_code == 0
    rows = json_lines(result)
    assert [row["text"] for row in rows] == TEXTS[:2]
    assert [row["predictions"][0]["label"] for row in rows] == ["positive review", "negative review"]


def test_standard_input_one_text_per_line() -> None:
    result = run("classify", *LABELS, "--threshold", "0", input="\n".join(TEXTS) + "\n")
    assert [row["text"] for row in json_lines(result)] == TEXTS
    assert all(len(row["predictions"]) == 2 for row in json_lines(result))


def test_a_sentence_that_ends_like_a_file_name_is_a_text() -> None:
    result = run("classify", "I read notes.txt", *LABELS)
    assert [row["text"] for row in json_lines(result)] == ["I read notes.txt"]


def test_a_table_for_people() -> None:
    result = run("classify", TEXTS[0], *LABELS, "--single", "--table")
    assert "positive review" in result.stdout and "text" in result.stdout


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    import pyarrow
    import pyarrow.parquet

    files = {suffix: tmp_path / f"in{suffix}" for suffix in INPUT_SUFFIXES}
    files[".txt"].write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    with files[".csv"].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *([n, text] for n, text in enumerate(TEXTS))])
    with files[".tsv"].open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([["id", "text"], *enumerate(TEXTS)])
    files[".json"].write_text(json.dumps(TEXTS), encoding="utf-8")
    files[".jsonl"].write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), files[".parquet"])
    return files


@pytest.mark.parametrize("suffix", INPUT_SUFFIXES)
def test_files_in(inputs: dict[str, Path], suffix: str) -> None:
    result = run("classify", str(inputs[suffix]), *LABELS)
    assert [row["text"] for row in json_lines(result)] == TEXTS


@pytest.mark.slow
def test_a_signal_to_end_leaves_a_file_to_resume(tmp_path: Path) -> None:
    texts, output = tmp_path / "texts.txt", tmp_path / "out.parquet"
    texts.write_text("A text about music and sport.\n" * 100_000, encoding="utf-8")
    command = [sys.executable, "-m", "gliclass_fast", "classify", str(texts), *LABELS, "-o", str(output)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        note = output.with_name("out.parquet.options.json")
        while not note.exists() and process.poll() is None:
            time.sleep(0.05)
        process.terminate()
        assert "add --resume" in process.communicate(timeout=60)[1]
    assert process.returncode == INTERRUPTED
    texts_done = len(kept(output))
    assert 0 < texts_done < 100_000 and texts_done % classify.TEXTS_AT_A_TIME == 0


@pytest.mark.long
def test_precisions() -> None:
    scores = {}
    for options in ((), ("--quantization", "int8"), ("--dtype", "bfloat16")):
        found = json_lines(run("classify", TEXTS[0], *LABELS, "--threshold", "0", *options))
        scores[options] = [each["score"] for each in found[0]["predictions"]]
    exact, *others = scores.values()
    for other in others:
        assert other != exact and other == pytest.approx(exact, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_an_interrupted_run_leaves_a_valid_file_and_resumes(
    inputs: dict[str, Path], tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / f"out{suffix}"
    command = ["classify", str(inputs[".csv"]), *LABELS, "--output", str(output)]
    assert run(*command).exit_code == 0
    whole = output.read_bytes()

    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 1)
    calls = iter(range(100))
    original = classify.ZeroShotClassificationPipeline.__call__

    def interrupted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ZeroShotClassificationPipeline, "__call__", interrupted)
    result = run(*command)
    assert result.exit_code == INTERRUPTED and "2 of 4 texts" in result.stderr and "--resume" in result.stderr
    assert kept(output) == TEXTS[:2]
    result = run(*command)
    assert result.exit_code == 2 and "unfinished run: add --resume" in " ".join(result.stderr.split())
    result = run(*command, "--resume", "--threshold", "0.1")
    assert result.exit_code == 2 and "with the same: threshold (see out" in " ".join(result.stderr.split())
    result = run(*command, "--resume")
    assert result.exit_code == 0, result.stderr
    result = run(*command, "--resume", "--quantization", "int8")
    assert result.exit_code == 2 and "with the same: quantization (see out" in " ".join(result.stderr.split())
    note = output.with_name(f"{output.name}.options.json")
    note.write_text(
        note.read_text(encoding="utf-8").replace('"quantization"', '"precision"'), encoding="utf-8"
    )
    result = run(*command, "--resume", "--precision", "int8")  # as of 0.1.0, the note and the option
    assert result.exit_code == 2 and "with the same: quantization (see out" in " ".join(result.stderr.split())
    assert kept(output) == TEXTS
    if suffix != ".parquet":
        assert len(output.read_bytes().splitlines()) == len(whole.splitlines())


UNFINISHED = {
    ".jsonl": '{"text": "a", "predictions": []}\n{"text": "b", "pred',
    ".csv": '"text","labels","scores","error"\n"a","","",""\n"b\nand ""more""\nof ',
}


@pytest.mark.parametrize("suffix", UNFINISHED)
def test_resume_drops_a_record_a_killed_run_left_unfinished(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out{suffix}"
    output.write_text(UNFINISHED[suffix], encoding="utf-8")
    writer = open_writer(output, resume=True)
    assert writer.kept == [(("a",), False)]
    writer.start()
    awkward = 'b\nand "more"\r\nof, it'
    writer.write({"text": awkward, "predictions": [{"label": "x", "score": 0.5}]})
    writer.close()
    assert kept(output) == ["a", awkward]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_mistake_does_not_cost_an_earlier_result(tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"out{suffix}"
    command = ["classify", TEXTS[0], *LABELS, "--output", str(output)]
    assert run(*command).exit_code == 0
    before = output.read_bytes()
    assert run(*command, "--threshold", "3").exit_code == 2
    assert output.read_bytes() == before
    result = run("classify", "another text", *LABELS, "--output", str(output), "--resume")
    assert result.exit_code == 2 and "holds results of other texts" in " ".join(result.stderr.split())
    assert output.read_bytes() == before


def test_the_input_file_is_never_the_output(inputs: dict[str, Path]) -> None:
    before = inputs[".csv"].read_bytes()
    result = run("classify", str(inputs[".csv"]), *LABELS, "--output", str(inputs[".csv"]))
    assert result.exit_code == 2 and "is the input file" in " ".join(result.stderr.split())
    assert inputs[".csv"].read_bytes() == before
    result = run("classify", str(inputs[".csv"]), str(inputs[".txt"]), *LABELS)
    assert result.exit_code == 2 and "give one file" in " ".join(result.stderr.split())


def test_version() -> None:
    assert run("--version").stdout.strip() == gliclass_fast.__version__


@pytest.mark.slow
def test_a_reader_that_stops_is_no_error() -> None:
    command = f"{sys.executable} -m gliclass_fast classify --labels a,b --device cpu | head -c 0"
    text = "\n".join(TEXTS * 200)
    done = subprocess.run(command, shell=True, input=text, capture_output=True, text=True, check=False)
    assert "rror" not in done.stderr


@pytest.mark.slow
def test_more_labels_than_fit_in_passes() -> None:
    many = ",".join(f"label number {number}" for number in range(300))
    command = ["classify", "x", "--labels", many, "--device", "cpu", "--threshold", "0"]
    result = run(*command)
    assert result.exit_code == 2 and "labels_per_pass" in result.stderr
    for passes in ("auto", "50"):
        assert len(json_lines(run(*command, "--labels-per-pass", passes))[0]["predictions"]) == 300


def test_labels_prompt_and_examples_from_files(tmp_path: Path) -> None:
    tree, shots = tmp_path / "labels.json", tmp_path / "shots.json"
    tree.write_text(json.dumps({"review": ["positive", "negative"]}))
    shots.write_text(json.dumps([{"text": "great", "labels": ["review.positive"]}]))
    arguments = [
        "--labels-file",
        str(tree),
        "--examples",
        str(shots),
        "--prompt",
        "Rate: ",
        "--threshold",
        "0",
    ]
    rows = json_lines(run("classify", TEXTS[0], *arguments))
    assert [each["label"] for each in rows[0]["predictions"]] == ["review.positive", "review.negative"]


MISTAKES = [
    (["classify", "x"], "either as --labels"),
    (["classify", "x", "--labels", " , "], "labels is empty"),
    (["classify", "x", *LABELS, "--threshold", "2"], "Invalid value for '--threshold'"),
    (["classify", "x", *LABELS, "--max-length", "0"], "Invalid value for '--max-length'"),
    (["classify", "x", *LABELS, "--batch-tokens", "0"], "Invalid value for '--batch-tokens'"),
    (["serve", "--threshold", "2"], "Invalid value for '--threshold'"),
    (["classify", "x", *LABELS, "--resume"], "--resume continues an --output file"),
    (["classify", "x", *LABELS, "--model", "nowhere/at/all"], "does not exist"),
    (["classify", "x", *LABELS, "--output", "out.docx"], "supported: .jsonl, .csv, .parquet"),
    (["classify", "missing.csv", *LABELS], "No such file"),
    (["classify", "x", *LABELS[:2], "--device", "gpu"], "unknown device 'gpu'; choose one of: cuda, cpu"),
    (["classify", "x", *LABELS, "--labels-per-pass", "some"], "labels_per_pass must be"),
    (["classify", "x", *LABELS, "--warm-up", "64,many"], "--warm-up takes numbers of tokens"),
    (["classify", "x", *LABELS, "--warm-up", "64,3"], "--warm-up takes numbers of tokens, from 4"),
    (["classify", "x", *LABELS, "--warm-up", ""], "--warm-up takes numbers of tokens"),
    (["classify", "x", *LABELS, "--warm-up", "64,400000"], "--warm-up 400000: a batch here has at most 2048"),
    (["classify", "x", *LABELS, "--dtype", ""], "dtype '' is not supported"),
    (["classify", "x", *LABELS, "--threads", "100000"], "threads (--threads) must be at most"),
    (
        ["classify", "x", *LABELS, "--dtype", "half", "--quantization", "int8"],
        "computes in float32, not half",
    ),
    (["info", "--device", "nonsense"], "unknown device"),
    (["info", "--model", "./nowhere"], "nowhere does not exist"),
    (["check", "nowhere/at/all"], "does not exist"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_mistakes_end_with_a_message_and_no_traceback(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_bad_files_are_named(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.csv", b"id\n1\n", "has no column 'text' but: id"),
        ("a.csv", b" text,id\n1,2\n", "has no column 'text' but: ' text', id."),
        ("a.csv", b'"i\rd",b\n1,2\n', "has no column 'text' but: 'i\\rd', b."),
        ("a.jsonl", b'{"id": 3}\n', "has no column 'text' but: id"),
        ("b.jsonl", b"{\n", "line 1 is not valid JSON"),
        ("a.txt", b"\xff\xfe", "is not UTF-8"),
    ):
        (tmp_path / name).write_bytes(content)
        result = run("classify", str(tmp_path / name), *LABELS)
        assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_info_names_every_operation() -> None:
    result = run("info", "--device", "cpu", "--model", str(demo.PATH), env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for word in (*IMPLEMENTATIONS, "torch", "compiled for CPU", "compiled for CUDA", "first choice"):
        assert word in result.stdout
    rounded = (
        ".*VNNI: (yes|no), AVX512_BF16: (yes|no), AMX: (yes|no)"
        if hasattr(torch.cpu, "get_capabilities")
        else ""
    )
    assert re.search(f"instructions of the CPU{rounded}", result.stdout)
    rows = {
        row[0].strip(): row for line in result.stdout.splitlines() if len(row := line.split("│")[1:4]) == 3
    }
    assert "first choice of cpp, reference" in rows["attention"][2] or "cpp: " in rows["attention"][2]
    assert "the only one" in rows["activation"][2]


@pytest.mark.long
def test_check_compares_int8_with_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("The central bank raised interest rates.\nPlay some jazz, please.\n", encoding="utf-8")
    options = ("check", "--quantization", "int8", "--texts", str(texts), "--labels", "finance,music,sport")
    result = run(*options, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    assert "int8 holds on these texts: 0 of 6 decisions differ" in result.stdout
    monkeypatch.setattr(selfcheck, "ALLOWED_CHANGES", -1.0)
    result = run(*options, env={"COLUMNS": "200"})
    assert result.exit_code == 1 and "int8 is not good enough here" in result.stderr
    assert run("check", "--labels", "a,b").exit_code == 2


@pytest.mark.long
def test_check_compares_with_the_reference() -> None:
    result = run("check", str(demo.PATH), "--device", "cpu", env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stderr
    assert "matches the reference" in result.stdout and "cross-attn" in result.stdout


@pytest.mark.slow
def test_the_installed_command_runs() -> None:
    command = [sys.executable, "-m", "gliclass_fast", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("classify", "info", "check", "bench"))
