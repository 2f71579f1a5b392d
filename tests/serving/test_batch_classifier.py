"""`Classifier` for one's own `map_batches`, and what stands around a job: no cluster is needed here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner, Result

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.cli.batch_run import BatchRun
from gliclass_fast.serving.ray_data import FOUND, Classifier
from tests.serving import counted

ROOT = Path(__file__).parent.parent.parent
LABELS = ["positive review", "negative review", "music"]
TEXTS = ["I loved this film.", None, "Play some jazz, please.", 3, "", "word " * 40, "\ud800"]
ERRORS = {
    1: "the text is null",
    3: "the text must be a string, got int",
    6: "the text is not valid text: surrogates not allowed at position 0",
}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return Classifier(labels=LABELS, top_k=2, device="cpu", max_length=40, call={"threshold": 0.01})


def test_a_batch_gets_what_the_pipeline_gives(classifier: Classifier) -> None:
    """Rows that are no text have their error, and the others what they would have alone, best first."""
    found = classifier({"text": np.array(TEXTS, object), "key": np.arange(len(TEXTS))})
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", max_length=40)
    assert {place: error for place, error in enumerate(found["error"]) if error} == ERRORS
    for place in set(range(len(TEXTS))) - set(ERRORS):
        alone, infos = pipeline([TEXTS[place]], LABELS, threshold=0.01, return_info=True)
        best = sorted(alone[0], key=lambda each: -each["score"])[:2]
        assert found["labels"][place] == [each["label"] for each in best]
        np.testing.assert_allclose(found["scores"][place], [each["score"] for each in best], atol=1e-6)
        assert found["tokens_cut"][place] == infos[0].tokens_cut
    assert found["tokens_cut"][5] > 0 and found["key"].tolist() == list(range(len(TEXTS)))
    assert all(found[name][1] is None for name in ("labels", "scores"))


def test_a_table_keeps_its_types(classifier: Classifier) -> None:
    """Columns have the same types where every row failed; a row with an error keeps it and is not scored."""
    table = pyarrow.table({"text": TEXTS[:3], "error": [None, None, "not read"], "key": [2**60, None, 1]})
    found = classifier(table)
    assert found.column_names == ["text", "error", "key", "labels", "scores", "tokens_cut"]
    assert found["error"].to_pylist() == [None, ERRORS[1], "not read"]
    assert found["key"].to_pylist() == [2**60, None, 1] and found["labels"][0].as_py() == ["positive review"]
    failed = classifier(table.slice(1))
    assert failed.schema == found.schema and failed["labels"].to_pylist() == [None, None]
    assert classifier(table.slice(3)).schema == found.schema


def test_a_text_that_fails_is_alone_and_a_mistake_is_raised(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ZeroShotClassificationPipeline.__call__

    def poisoned(pipeline: Any, texts: list[str], *labels: Any, **options: Any) -> Any:
        if "poison" in texts:
            raise FloatingPointError(f"not finite: {options['first_text']}")
        return call(pipeline, texts, *labels, **options)

    monkeypatch.setattr(ZeroShotClassificationPipeline, "__call__", poisoned)
    found = classifier({"text": ["poison" if place in (2, 9) else "fine" for place in range(11)]})
    assert {place: error for place, error in enumerate(found["error"]) if error} == {
        2: "not finite: 2",
        9: "not finite: 9",
    }
    assert len({tuple(each) for each in found["scores"] if each}) == 1
    with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
        Classifier(labels=LABELS, device="cpu", call={"threshold": 2})({"text": ["one"]})
    with pytest.raises(KeyError, match="text"):
        classifier({"body": ["one"]})


def test_an_actor_has_the_threads_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    given: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", given.append)
    Classifier(labels=LABELS, device="cpu")
    assert 3 not in given and os.environ["RAYON_NUM_THREADS"] == "1"
    Classifier(labels=LABELS, device="cpu", threads=3)
    assert 3 in given and os.environ["RAYON_NUM_THREADS"] == "3"


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch, classifier: Classifier) -> list[int]:
    """Jobs score in this process; what it returns is how many rows the next one gets done, else all."""
    limits: list[int] = []

    def score(self: BatchRun, files: Any) -> None:
        from gliclass_fast.cli.batch_files import tables

        self.checkpoint.mkdir(exist_ok=True)
        self.output.mkdir(exist_ok=True)
        table = pyarrow.concat_tables(each for piece in files.pieces for each in tables(piece, self.reading))
        done = len(list(self.output.iterdir()))
        rows = classifier(table.slice(done, limits.pop() if limits else None))
        for place in range(rows.num_rows):
            path = self.output / f"{done + place}.parquet"
            pyarrow.parquet.write_table(rows.slice(place, 1), path)
        if done + rows.num_rows < table.num_rows:
            raise ValueError("killed")

    monkeypatch.setattr(BatchRun, "score", score)
    return limits


def test_a_job_begins_goes_on_and_ends(tmp_path: Path, without_ray: list[int]) -> None:
    """No results are lost, mixed with those of other options, or scored twice, whatever is left of them."""
    source, output = tmp_path / "in.jsonl", tmp_path / "out"
    checkpoint, note = tmp_path / "out.checkpoint", tmp_path / "out.options.json"
    source.write_text("\n".join(json.dumps(text) for text in ["one", "two", None, "word " * 60]))

    def run(*more: str, labels: str = "a,b") -> Result:
        arguments = [str(source), "--output", str(output), "--labels", labels, "--device", "cpu", *more]
        return CliRunner().invoke(counted.app, arguments)

    def refused(result: Result, message: str) -> None:
        assert result.exit_code == 2 and message in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1

    checkpoint.mkdir()  # of results that were deleted, so it must not count
    (checkpoint / "old.parquet").touch()
    without_ray.append(2)
    refused(run(), "killed")
    assert not (checkpoint / "old.parquet").exists() and not json.loads(note.read_text())["finished"]
    refused(run(), "unfinished run: add --resume")
    refused(run("--resume", labels="a,c"), "other options; --resume continues with the same: labels")
    refused(run("--resume", "--keep", "key"), "no column 'key'")
    checkpoint.rename(tmp_path / "away")
    refused(run("--resume"), "out.checkpoint is missing")
    (tmp_path / "away").rename(checkpoint)
    without_ray.append(1)
    refused(run("--resume", "--dtype", "float32"), "killed")
    ended = run("--resume", "--block-rows", "7")
    assert ended.exit_code == 3 and not checkpoint.exists() and json.loads(note.read_text())["finished"]
    lines = ended.stderr.splitlines()
    assert lines[0] == f"4 texts of {source} classified into {output}"
    assert lines[1].startswith("the window cut 1 of 4 texts")
    assert lines[2:] == ["1 of 4 rows failed", f"in.jsonl, row 3: {ERRORS[1]}"]
    refused(run(), "exists already: give another --output, or delete it")
    assert run("--resume").exit_code == 0 and len(list(output.iterdir())) == 4
    (output / "0.parquet").unlink()
    refused(run("--resume"), "holds 3 results of 4 texts")
    source.write_text('"changed"')
    refused(run("--resume"), "other options; --resume continues with the same: input")


def test_help_needs_neither_ray_nor_torch() -> None:
    program = """
import sys
from gliclass_fast.cli.batch import batch
import gliclass_fast.serving.ray_data
assert not {"ray", "torch", "transformers", "pyarrow"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert FOUND == ("labels", "scores", "tokens_cut", "error")


def test_the_page_names_every_option() -> None:
    known = {
        option
        for item in typer.main.get_command(counted.app).params
        for option in item.opts
        if option.startswith("--")
    }
    page = (ROOT / "docs/batch.md").read_text(encoding="utf-8")
    assert set(re.findall(r"--[a-z][a-z-]+", page)) == known
