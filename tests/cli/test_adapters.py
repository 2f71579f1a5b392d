"""Rows of a file name their adapters, and all texts have the only one."""

from __future__ import annotations

import json
from pathlib import Path

import gliclass
import pytest
from typer.testing import CliRunner

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.cli import app
from gliclass_fast.cli.job import FAILED_ROWS
from tests.adapters import adapted

OPTIONS = ["--labels", "music,cooking", "--threshold", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    adapted(gliclass.GLiClassModel.from_pretrained(demo.PATH), folder, 1)
    return folder


def test_a_column_of_adapters(folder: Path, tmp_path: Path) -> None:
    rows = tmp_path / "in.csv"
    rows.write_text("text,of\nplay jazz,mine\nplay jazz,\nsoup,other\nsoup,mine\n", encoding="utf-8")
    arguments = ["classify", str(rows), *OPTIONS, "--adapter", f"mine={folder}"]
    result = CliRunner().invoke(app.app, [*arguments, "--adapter-column", "of", "--json"])
    assert result.exit_code == FAILED_ROWS
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert found[2]["error"] == "there is no adapter 'other'; there are ['mine']"
    assert set(found[0]) == {"text", "predictions"}
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    pipeline.load_adapter("mine", folder)
    texts, ids = ["play jazz", "play jazz", "soup"], ["mine", None, "mine"]
    wanted = pipeline(texts, ["music", "cooking"], threshold=0.0, adapter_ids=ids)
    for own, theirs in zip([found[0], found[1], found[3]], wanted, strict=True):
        assert {each["label"]: pytest.approx(each["score"], abs=1e-5) for each in own["predictions"]} == {
            each["label"]: each["score"] for each in theirs
        }
    assert found[0]["predictions"] != found[1]["predictions"]
    result = CliRunner().invoke(app.app, [*arguments, "--json", "--keep", "of"])
    assert json.loads(result.stdout.splitlines()[1]) == {**found[0], "of": ""}


def test_odd_cells_and_a_job_that_goes_on(folder: Path, tmp_path: Path) -> None:
    """The result of a row does not count as that of an earlier one, whose adapter there is not."""
    rows, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [json.dumps({"text": "soup", "of": each}) + "\n" for each in (["mine"], "other", "mine")]
    rows.write_text("".join(lines), encoding="utf-8")
    arguments = ["classify", str(rows), *OPTIONS, "--adapter", f"mine={folder}", "--adapter-column", "of"]
    arguments += ["--on-error", "skip", "--output", str(output)]
    for options, code in (([], FAILED_ROWS), (["--resume"], 0)):  # the failures were told before
        result = CliRunner().invoke(app.app, [*arguments, *options])
        assert result.exit_code == code, result.stderr
        assert len(output.read_text(encoding="utf-8").splitlines()) == 1


def test_options_that_do_not_go_together(folder: Path) -> None:
    for options, message in (
        (["--adapter", "mine"], "--adapter takes ID=FOLDER, not 'mine'"),
        (["--adapter-column", "of"], "--adapter-column goes with --adapter"),
        (["--adapter", f"a={folder}", "--adapter", f"b={folder}"], "which of several adapters a row has"),
        (["--adapter", f"a={folder}", "--adapter", "a=other"], "--adapter names 'a' twice"),
        (["--adapter", f"a={folder}", "--adapter-column", "of"], "--adapter-column is for the columns of a"),
        (["--adapter", "a=nowhere/at/all"], "does not exist"),
    ):
        result = CliRunner().invoke(app.app, ["classify", "x", *OPTIONS, *options])
        assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr
