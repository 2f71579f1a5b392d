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
import pandas
import pyarrow
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner, Result

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.cli import batch_run
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


def test_what_is_missing_is_none_and_only_a_string_is_an_error(classifier: Classifier) -> None:
    """Tables say in many ways that there is nothing, and hold anything under the name of a column."""
    missing = [None, float("nan"), np.float32("nan"), pandas.NA, pandas.NaT, np.datetime64("NaT")]
    texts = np.array([*missing, "Play some jazz, please."], object)
    for errors in (np.full(7, np.nan), np.array([*missing, ""], object), np.arange(7), np.ones(7, bool)):
        for batch in ({"text": texts, "error": errors}, pandas.DataFrame({"text": texts, "error": errors})):
            found = classifier(batch)
            *failed, last = found["error"]
            assert failed == ["the text is null"] * 6 and pandas.isna(last)  # the missing of a data frame
            assert list(found["labels"])[-1] and type(found) is type(batch)
    frame = pandas.DataFrame({"text": ["rain", "snow"], "error": ["not read", np.nan]}, index=[7, 9])
    assert classifier(frame)["error"].fillna("").tolist() == ["not read", ""]
    for values in ([0, 5], [False, True], [0.1, float("nan")], [None, None]):
        table = classifier(pyarrow.table({"text": ["rain", "snow"], "error": values}))
        assert table["error"].to_pylist() == [None, None] and table["error"].type == "string"


def test_a_text_that_is_not_utf_8_fails_alone(classifier: Classifier) -> None:
    texts = pyarrow.array([b"Play some jazz.", b"caf\xe9", None])
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, texts.buffers())
    errors = classifier(pyarrow.table({"text": column}))["error"].to_pylist()
    assert errors == [None, "the text is not valid text: surrogates not allowed at position 3", ERRORS[1]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": [["a"], ["b"]]}, "labels has an entry per text"),
        ({"labels": [{"a": ["b"]}]}, "labels has an entry per text"),
        ({"labels": "a,b"}, "labels must be a list or a nested dict, got str"),
        ({"call": {"prompt": ["one", "two"]}}, r"call\['prompt'\] has an entry per text: give one for all"),
        ({"call": {"threshold": np.array([0.1, 0.2])}}, r"call\['threshold'\] has an entry per text"),
        ({"call": {"classification_type": ["single-label"]}}, r"call\['classification_type'\] has an entry"),
        ({"call": {"adapter_ids": ["a", None]}}, r"call\['adapter_ids'\] has an entry per text"),
        ({"call": {"examples": [None, [{"text": "a"}]]}}, r"call\['examples'\] has an entry per text"),
        (
            {"call": {"return_hierarchical": True}},
            "call cannot have 'return_hierarchical': results are lists",
        ),
        ({"call": {"return_info": False}}, "call cannot have 'return_info'"),
        (
            {"call": {"multi_label": True}},
            "call cannot have 'multi_label': it belongs to a call whose results",
        ),
        ({"call": {"top_k": 1}}, "call cannot have 'top_k': give it beside call"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_k": 1.5}, "top_k must be a whole number, got float"),
    ],
)
def test_what_would_give_rows_other_results_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Classifier(**{"labels": ["a", "b"], "device": "cpu", **options})


def test_what_all_texts_share_may_have_any_form() -> None:
    """Iterators are read once, so that the second batch has what the first one has."""
    call = {
        "threshold": {"music": 0.0, "rain": np.float32(0)}, "prompt": "Sort it.", "classification_type": None,
        "examples": iter([{"text": "a song", "labels": ["music"]}]),
    }  # fmt: skip
    classifier = Classifier(labels=iter(["music", "rain"]), device="cpu", call=call)
    first, second = (classifier({"text": ["Play some jazz."]}) for _ in range(2))
    assert first["scores"][0] == second["scores"][0] and len(first["labels"][0]) == 2


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


def test_a_column_or_an_option_that_is_not_there_is_named(classifier: Classifier) -> None:
    table = pyarrow.table({"id": [1], "body": ["one"]})
    for batch in (table, table.to_pydict(), table.slice(1)):
        with pytest.raises(ValueError, match=r"no column 'text' but: id, body. Choose one with column="):
            classifier(batch)
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 2, names=["text", "text"])
    with pytest.raises(ValueError, match="the batch has 2 columns named 'text'"):
        classifier(twice)
    with pytest.raises(
        ValueError, match="call got an unexpected keyword argument 'foo'; it takes threshold,"
    ):
        Classifier(labels=LABELS, device="cpu", call={"foo": 1})
    with pytest.raises(ValueError, match="must be at most"):
        Classifier(labels=LABELS, device="cpu", threads=100_000)
    for threads in (0, -1):
        with pytest.raises(ValueError, match=rf"^threads \(--threads\) must be at least 1, got {threads}"):
            Classifier(labels=LABELS, device="cpu", threads=threads)


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
            row, name = rows.slice(place, 1), f"{done + place}.parquet"
            pyarrow.parquet.write_table(row, self.output / name)
            pyarrow.parquet.write_table(row.select(["row_id"]), self.checkpoint / name)
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
    refused(run("--resume", "--threshold", "0.4"), "continues with the same: threshold (see")
    refused(run("--resume", "--prompt", "Sort it."), "continues with the same: prompt (see")
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


def test_a_job_is_finished_before_anything_is_said(
    tmp_path: Path, without_ray: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A summary that nobody can read must not leave a job that is done as one to continue."""
    (tmp_path / "in.jsonl").write_text('"one"')
    monkeypatch.setattr(batch_run.errors, "print", lambda *_, **__: 1 / 0)
    arguments = [str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out"), "--labels", "a,b"]
    result = CliRunner().invoke(counted.app, [*arguments, "--device", "cpu"])
    assert isinstance(result.exception, ZeroDivisionError)
    assert json.loads((tmp_path / "out.options.json").read_text())["finished"]
    assert not (tmp_path / "out.checkpoint").exists()


def test_a_link_is_read_as_what_its_own_name_says(tmp_path: Path, without_ray: list[int]) -> None:
    (tmp_path / "blob").write_text('"one"')
    (tmp_path / "in.jsonl").symlink_to("blob")
    arguments = [str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out"), "--labels", "a,b"]
    result = CliRunner().invoke(counted.app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.stderr
    assert pyarrow.parquet.read_table(tmp_path / "out")["file"].to_pylist() == ["in.jsonl"]


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
