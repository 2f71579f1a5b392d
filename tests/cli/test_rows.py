"""Rows that fail do not end a job, and results hold what was asked for, in every form."""

from __future__ import annotations

import csv
import io
import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gliclass_fast import GLiClassModel
from gliclass_fast.cli import app, classify, console
from gliclass_fast.cli.job import FAILED_ROWS, MOST_NAMED
from gliclass_fast.cli.readers import read_rows
from gliclass_fast.cli.results import Layout, Outcome
from gliclass_fast.cli.rows import Reading, Row
from gliclass_fast.cli.scoring import Call, score
from gliclass_fast.cli.writers import OUTPUT_SUFFIXES, open_writer
from tests import families
from tests.tiny import new_byte_tokenizer

OPTIONS = ["--labels", "positive,negative,music", "--device", "cpu"]


def run(*arguments: str, **options: Any) -> Result:
    return CliRunner().invoke(app.app, ["classify", *arguments, *OPTIONS], **options)


@pytest.fixture(autouse=True)
def one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads the demo checkpoint once, as these tests load it many times in the same way."""
    monkeypatch.setattr(GLiClassModel, "from_pretrained", LOAD)


LOAD = cache(GLiClassModel.from_pretrained)


def read(path: Path) -> list[dict[str, Any]]:
    """Reads a result in any form, without the scores; what is null is None, or "" in .csv."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            rows: list[dict[str, Any]] = list(csv.DictReader(file))
        return [{**row, "labels": row["labels"].split("|") if row["labels"] else []} for row in rows]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return list(pyarrow.parquet.read_table(path).to_pylist())
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{**row, "labels": [each["label"] for each in row["predictions"] or ()]} for row in found]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Writes 6 rows, of which those of the lines 2, 4 and 5 have no text that can be scored."""
    texts: list[Any] = ["I loved it.", None, "A dull mess.", 3, "bad \ud800 row", "Play jazz."]
    lines = [json.dumps({"id": place, "text": text}) for place, text in enumerate(texts, 1)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_row_that_fails_is_written_with_its_error(rows: Path, suffix: str) -> None:
    output = rows.with_name(f"out{suffix}")
    result = run(str(rows), "--keep", "id", "--threshold", "0", "-o", str(output))
    assert result.exit_code == FAILED_ROWS
    shown = " ".join(result.stderr.split())
    assert "6 texts of" in shown and "3 of 6 rows failed line 2: the text is null line 4:" in shown
    found = read(output)
    assert [int(row["id"]) for row in found] == [1, 2, 3, 4, 5, 6]
    assert [row.get("error") or "" for row in found] == [
        "",
        "the text is null",
        "",
        "the text must be a string, not int",
        "the text is not valid: surrogates not allowed at position 4",
        "",
    ]
    assert [len(row["labels"] or ()) for row in found] == [3, 0, 3, 0, 0, 3]
    assert found[4]["text"] == "bad \\ud800 row"
    assert json.loads(output.with_name(f"out{suffix}.options.json").read_text())["input"] == str(rows)
    result = run(str(rows), "--keep", "id", "--threshold", "0", "-o", str(output), "--resume")
    assert result.exit_code == 0 and "3 of 6 rows failed, 3 of them before" in result.stderr


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_skipped_rows_and_resume(rows: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 2)
    output = rows.with_name(f"out{suffix}")
    first = [str(rows), "--keep", "id", "-o", str(output)]
    result = run(*first, "--on-error", "fail")
    assert result.exit_code == 2 and "line 2: the text is null" in " ".join(result.stderr.split())
    assert [int(row["id"]) for row in read(output)] == [1]
    result = run(*first, "--on-error", "skip", "--resume")
    assert result.exit_code == FAILED_ROWS and "3 of 6 rows failed" in result.stderr
    assert [int(row["id"]) for row in read(output)] == [1, 3, 6]
    rows.write_text(rows.read_text() + '\n{"id": 7, "text": "More."}\n')
    result = run(*first, "--resume", "--on-error", "skip")
    assert result.exit_code == 0 and "3 of 7 rows failed, 3 of them before" in result.stderr
    assert [int(row["id"]) for row in read(output)] == [1, 3, 6, 7]
    assert run(*first, "--resume", "--no-text").exit_code == 2


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_results_without_a_note_are_not_continued(rows: Path, suffix: str) -> None:
    """They may be of any options, which nothing tells."""
    output = rows.with_name(f"out{suffix}")
    command = [str(rows), "-o", str(output)]
    assert run(*command).exit_code == FAILED_ROWS
    whole, note = output.read_bytes(), output.with_name(f"{output.name}.options.json")
    note.unlink()
    result = run(*command, "--resume", "--threshold", "0")
    assert result.exit_code == 2 and output.read_bytes() == whole
    said = f"{output} has results and no {note}: give another --output, or delete {output}"
    assert said in " ".join(result.stderr.split())
    if suffix != ".parquet":  # nothing is lost of an empty file
        output.write_bytes(b"")
        assert run(*command, "--resume").exit_code == FAILED_ROWS and output.read_bytes() == whole


def test_a_result_never_goes_to_a_row_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty text and a null look alike where a result is matched with rows."""
    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 1)
    rows, output = tmp_path / "in.jsonl", tmp_path / "out.csv"
    rows.write_text('null\n""\n"x"\n')
    for code in (FAILED_ROWS, 0):
        assert run(str(rows), "-o", str(output), "--on-error", "skip", "--resume").exit_code == code
        assert [row["text"] for row in read(output)] == ["", "x"]


def test_a_job_ends_where_every_text_fails_and_goes_on_where_one_does() -> None:
    calls: list[tuple[list[str], int]] = []

    def call(bad: Callable[[str], bool]) -> Call:
        def scored(texts: list[str], first: int, adapters: list[str | None]) -> list[Outcome]:
            calls.append((texts, first))
            if texts != ["a text"]:
                assert adapters == [f"of {text}" if text else None for text in texts]
            for place, text in enumerate(texts, first):
                if bad(text):
                    raise FloatingPointError(f"text {place} overflows")
            return [Outcome([{"label": text, "score": 1.0}]) for text in texts]

        return scored

    part = [Row(f"line {number}", f"x{number}") for number in range(100, 116)]
    part[3] = Row("line 103", None, error="the text is null")
    found = score(part, 100, call(lambda text: text == "x110"), lambda row: f"of {row.text}")
    assert [place for place, each in enumerate(found) if each.error] == [3, 10]
    assert found[3].error == "the text is null" and found[10].error == "text 110 overflows"
    assert found[11].predictions == [{"label": "x111", "score": 1.0}]
    assert len(calls) < 12
    with pytest.raises(FloatingPointError):
        score(part, 100, call(lambda text: text != ""), lambda row: f"of {row.text}")


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_columns_are_carried_along_and_texts_left_out(tmp_path: Path, suffix: str) -> None:
    rows, output = tmp_path / "in.csv", tmp_path / f"out{suffix}"
    rows.write_text('id,when,text\n7,"a ""day""",I loved it.\n8,,Play jazz.\n', encoding="utf-8")
    options = ["--keep", "when,id", "--no-text", "--top-k", "2", "--threshold", "0", "-o", str(output)]
    assert run(str(rows), *options).exit_code == 0
    found = read(output)
    assert [(row["when"], row["id"], len(row["labels"])) for row in found] == [
        ('a "day"', "7", 2),
        ("", "8", 2),
    ]
    assert all("text" not in row for row in found)
    other = tmp_path / "other.csv"
    other.write_text("id,when,text\n7,,I loved it.\n8,,Play jazz.\n", encoding="utf-8")
    result = run(str(other), *options, "--resume")
    assert result.exit_code == 2 and "results of other texts" in " ".join(result.stderr.split())
    assert run(str(rows), *options, "--resume").exit_code == 0 and read(output) == found


ODD = [
    '"a\\ud800"',
    '["\\ud800"]',
    "NaN",
    "-Infinity",
    str(2**70),
    "{}",
    '[{"a": {}}]',
    '{"a": "x"}',
    "true",
]
LARGE = 1234567890123456789  # more digits than a float tells apart
MIXED = [
    [str(LARGE)],
    ["1", "2.5"],
    ["[1]", "[2.5]", "[NaN]"],
    ['{"a": 1}', '{"b": [Infinity]}'],
]  # to parquet one type


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
@pytest.mark.parametrize("values", [ODD, *([each] for each in ODD), *MIXED], ids=lambda values: values[-1])
@pytest.mark.parametrize("text", [True, False])
def test_what_columns_hold_never_ends_a_job(
    tmp_path: Path, suffix: str, values: list[str], text: bool
) -> None:
    """Some of it is no valid Unicode, no JSON but to Python, or has no type in parquet."""
    path, output = tmp_path / "in.jsonl", tmp_path / f"out{suffix}"
    path.write_text("".join(f'{{"text": "x", "odd": {value}}}\n' for value in values))
    layout, rows = Layout(("odd",), text), read_rows(path, Reading(keep=("odd",)))
    writer = open_writer(output, resume=False, layout=layout)
    writer.start()
    for row in rows:
        writer.write(layout.record(row, Outcome([{"label": "a", "score": 0.5}])))
    writer.close()
    assert len(read(output)) == len(values)
    kept = open_writer(output, resume=True, layout=layout).kept
    assert all(layout.fits(result, row) for result, row in zip(kept, rows, strict=True))
    others: list[Any] = ["y", 3, LARGE + 1]
    assert not any(layout.fits(kept[0], Row("", "y", {"odd": other})) for other in others)
    if suffix == ".jsonl":
        for line in output.read_text(encoding="utf-8").splitlines():
            json.loads(line, parse_constant=pytest.fail)


def test_csv_results_have_a_header_always_and_texts_of_any_length(tmp_path: Path) -> None:
    rows, output = tmp_path / "in.txt", tmp_path / "out.csv"
    for content in ("", "a " * 70_000 + "\nb\n"):
        rows.write_text(content)
        for more in ([], ["--resume"]):
            csv.field_size_limit(131_072)  # as a new process has it
            assert run(str(rows), "-o", str(output), *more).exit_code == 0
            assert output.read_text().startswith('"text","labels","scores","error"\n')
            csv.field_size_limit(sys.maxsize)
            assert len(read(output)) == content.count("\n")


def test_a_table_whose_reader_has_ended_is_no_mistake() -> None:
    class Ended(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        type(console.screen)(file=Ended()).print("a table")


def test_an_output_that_is_a_folder_and_labels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    result = run("x", "-o", str(tmp_path / "out.csv"))
    assert result.exit_code == 2 and "is a folder" in " ".join(result.stderr.split())
    file = tmp_path / "labels.json"
    for content in (b"[" * 100_000, b'["\xff"]', b"1" * 5000):
        file.write_bytes(content)
        result = CliRunner().invoke(app.app, ["classify", "x", "--labels-file", str(file)])
        assert result.exit_code == 2 and "labels.json is not valid JSON" in " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(("ids", "suffix"), [("1111", ".jsonl"), ("1221", ".csv")])
def test_results_that_look_alike_stay_with_their_rows(
    ids: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that fails only as it is scored has no result, and nothing shows that before."""
    scored: list[str] = []

    def score(rows: list[Row], first: int) -> list[Outcome]:
        scored.extend(str(row.text) for row in rows)
        return [Outcome(None, "no finite scores") if "bad" in str(row.text) else Outcome([]) for row in rows]

    monkeypatch.setattr(classify, "_scorer", lambda *given: (score, ""))
    rows, output = tmp_path / "in.jsonl", tmp_path / f"out{suffix}"
    for bad, size in itertools.product(itertools.product((True, False), repeat=len(ids)), (1, 3)):
        monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", size)
        texts = [f"{'bad' if each else 'good'} {number}" for number, each in enumerate(bad)]
        lines = [json.dumps({"id": id, "text": text}) for id, text in zip(ids, texts, strict=True)]
        rows.write_text("\n".join(lines) + "\n")
        command = [str(rows), "--no-text", "--keep", "id", "--on-error", "skip", "-o", str(output)]
        output.unlink(missing_ok=True)
        assert run(*command).exit_code == (FAILED_ROWS if any(bad) else 0)
        whole, note = output.read_bytes(), output.with_name(f"{output.name}.options.json").read_bytes()
        scored.clear()
        assert run(*command, "--resume").exit_code == 0 and not scored
        assert output.read_bytes() == whole
        results = whole.splitlines(keepends=True)
        if len(results) - (suffix == ".csv") > json.loads(note)["results"]:
            output.write_bytes(b"".join(results[:-1]))  # as a run leaves it that is killed in its last part
            assert run(*command, "--resume").exit_code in (0, FAILED_ROWS)
            assert output.read_bytes() == whole and scored[0] == max(each for each in texts if "good" in each)


def test_results_without_any_column_belong_to_one_input(tmp_path: Path) -> None:
    first = "a\udce9.txt"  # a name need not be Unicode
    for name in (first, "b.txt"):
        (tmp_path / name).write_text("I loved it.\nPlay jazz.\n")
    options = ["--no-text", "-o", str(tmp_path / "out.jsonl")]
    assert run(str(tmp_path / first), *options).exit_code == 0
    assert run(str(tmp_path / first), *options, "--resume").exit_code == 0
    result = run(str(tmp_path / "b.txt"), *options, "--resume")
    assert result.exit_code == 2 and "with the same: input" in " ".join(result.stderr.split())


def test_the_best_label_comes_first_everywhere() -> None:
    found = json.loads(run("Play jazz.", "--threshold", "0").stdout)["predictions"]
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    table = run("Play jazz.", "--threshold", "0", "--table", "--top-k", "2").stdout
    places = [table.find(each["label"]) for each in found]
    assert 0 < places[0] < places[1] and places[2] == -1


def test_a_larger_window_is_no_remedy_where_the_tokenizer_bounds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = families.loaded(families.reference("GliZNet D")), new_byte_tokenizer(lab=True)
    tokenizer.model_max_length = 48
    tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(GLiClassModel, "from_pretrained", lambda *_, **__: model)
    result = run("word " * 100, "--model", str(tmp_path), "--max-length", "400")
    assert "(text 1); --text-chunk-size may" in " ".join(result.stderr.split()), result.output


def test_long_texts_in_chunks_and_the_summary_of_cuts(tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("short\n" + "I loved this film. " * 200 + "\n")
    cut = run(str(rows), "--max-length", "64", "--threshold", "0")
    assert " ".join(cut.stderr.split()) == (
        "the window cut 1 of 2 texts (line 2); --max-length or --text-chunk-size may have them read whole"
    )
    cut_by_model = run(str(rows), "--max-length", "512")  # the tokens that the demo checkpoint reads at most
    assert "(line 2); --text-chunk-size may" in " ".join(cut_by_model.stderr.split())
    whole = run(str(rows), "--max-length", "64", "--threshold", "0", "--text-chunk-size", "100")
    assert "cut" not in whole.stderr and whole.exit_code == 0, whole.stderr
    short, long = ([json.loads(line) for line in each.stdout.splitlines()] for each in (cut, whole))
    assert short[0] == long[0] and short[1] != long[1]
    for wrong, message in (
        (["--text-chunk-overlap", "5"], "goes with --text-chunk-size"),
        (["--text-chunk-size", "9", "--labels-per-pass", "auto"], "takes a number"),
        (["--text-chunk-size", "9", "--text-chunk-overlap", "9"], "less than --text-chunk-size"),
    ):
        result = run(str(rows), *wrong)
        assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    assert run("x", "--threads", "2").exit_code == 0 and given[0] == 2
    assert run("x", "--threads", "0").exit_code == 2


def test_many_failures_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(["good", *[None] * (MOST_NAMED + 5)]))
    result = run(str(rows))
    assert result.exit_code == FAILED_ROWS and "and 5 more" in result.stderr
    assert result.stderr.count("the text is null") == MOST_NAMED
    assert len(result.stdout.splitlines()) == MOST_NAMED + 6


@pytest.mark.long
def test_an_early_ctrl_c_shows_no_traceback() -> None:
    """It comes while torch is imported, where a KeyboardInterrupt would show a long one."""
    program = """
import os, signal, sys, time
from gliclass_fast.__main__ import main

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["gliclass-fast", "classify", "a text", "--labels", "a,b"]
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT and done.stderr == ""
