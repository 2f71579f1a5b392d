"""Files have one place, whatever their names: a run is resumed by it, and overwrites nothing it reads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gliclass_fast import demo
from gliclass_fast.cli import app
from tests.cli.test_rows import OPTIONS, run


def test_a_run_is_resumed_with_the_same_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name means another model, or another input, in another folder."""
    models = [tmp_path / each for each in ("a", "b")]
    for folder in models:
        shutil.copytree(demo.PATH, folder / "m")
        (folder / "in.txt").write_text("I loved it.\n")
    output = tmp_path / "out.jsonl"
    monkeypatch.chdir(models[0])
    options = ["--no-text", "-o", str(output), "--model"]
    assert run("in.txt", *options, "./m").exit_code == 0
    note = output.with_name("out.jsonl.options.json")
    noted = json.loads(note.read_text())
    del noted["options"]["places"]  # as earlier versions wrote it
    note.write_text(json.dumps(noted))
    assert run("in.txt", "--resume", *options, "./m").exit_code == 0
    assert run(str(models[0] / "in.txt"), "--resume", *options, str(models[0] / "m")).exit_code == 0
    monkeypatch.chdir(models[1])
    result = run("in.txt", "--resume", *options, "./m")
    assert result.exit_code == 2 and "with the same: model, input" in " ".join(result.stderr.split())


def test_a_run_is_resumed_with_the_same_order_of_labels(tmp_path: Path) -> None:
    """Scores depend on it, and objects of JSON that differ in it alone are equal in Python."""
    labels, options = tmp_path / "labels.json", ["I loved it.", "-o", str(tmp_path / "out.jsonl"), "--resume"]
    for content, code in (('{"x": ["a"], "y": ["b"]}', 0), ('{"y": ["b"], "x": ["a"]}', 2)):
        labels.write_text(content)
        result = CliRunner().invoke(app.app, ["classify", *options, "--labels-file", str(labels)])
        assert result.exit_code == code, result.stderr
    assert "with the same: labels" in " ".join(result.stderr.split())


def test_standard_input_without_texts_in_the_results_is_not_resumed(tmp_path: Path) -> None:
    options = ["-", "--no-text", "-o", str(tmp_path / "out.jsonl")]
    assert run(*options, "--resume", input="I loved it.\n").exit_code == 0  # There is nothing to resume.
    result = run(*options, "--resume", input="Another text.\n")
    assert result.exit_code == 2 and "apart without their texts" in " ".join(result.stderr.split())


@pytest.mark.parametrize("read", ["--labels-file", "--examples", "a hard link", "a link", "the note"])
def test_no_file_that_is_read_is_the_output(read: str, tmp_path: Path) -> None:
    texts, other = tmp_path / "in.jsonl", tmp_path / "other.jsonl"
    texts.write_text('{"text": "I loved it."}\n')
    options = OPTIONS
    if read == "the note":
        other = tmp_path / "out.jsonl"
        (labels := tmp_path / "out.jsonl.options.json").write_text('["music", "weather"]')
        options = ["--labels-file", str(labels), "--device", "cpu"]
        other.write_text("")
    elif read == "a hard link":
        other.hardlink_to(texts)
    elif read == "a link":
        other.symlink_to(texts)
    elif read == "--examples":
        other.write_text('[{"text": "a", "labels": ["music"]}]')
        options = [*OPTIONS, read, str(other)]
    else:
        other.write_text('["music", "weather"]')
        options = [read, str(other), "--device", "cpu"]
    before = other.read_bytes()
    command = ["classify", str(texts), *options, "--output", str(other)]
    result = CliRunner().invoke(app.app, command)
    assert result.exit_code == 2 and "--output" in result.stderr and other.read_bytes() == before


@pytest.mark.slow
def test_standard_input_does_not_read_its_own_output(tmp_path: Path) -> None:
    """Each result would be a text, and the run would never end."""
    path = tmp_path / "x.jsonl"
    path.write_text("I loved it.\n")
    command = [sys.executable, "-m", "gliclass_fast", "classify", "-", *OPTIONS, "--output", str(path)]
    with path.open("rb") as texts:
        done = subprocess.run(command, stdin=texts, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2 and "standard input" in done.stderr and path.read_text() == "I loved it.\n"
