"""Results of a batch job that are damaged, lost or foreign are named before more is scored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gliclass_fast.cli.batch_run import BatchRun
from gliclass_fast.cli.resume import RunNote
from gliclass_fast.cli.rows import Reading


class _Scored(Exception):
    """Says that a job came to scoring, which would need Ray."""


def _write(path: Path, ids: list[int], **more: object) -> None:
    strings, null = pyarrow.list_(pyarrow.string()), pyarrow.nulls(len(ids), pyarrow.string())
    columns = {
        "row_id": pyarrow.array(ids, pyarrow.int64()), "file": null,
        "row": pyarrow.array(ids, pyarrow.int64()), "text": null, "error": null,
        "labels": pyarrow.nulls(len(ids), strings),
        "scores": pyarrow.nulls(len(ids), pyarrow.list_(pyarrow.float32())),
        "tokens_cut": pyarrow.array([0] * len(ids), pyarrow.int32()), **more,
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchRun:
    """Returns a job of six rows, four of which are done in two files, as far as files tell."""
    (tmp_path / "in.csv").write_text("text\n" + "one\n" * 6)
    options = {"model": "m", "labels": ["a"], "dtype": None, "call": {"threshold": 0.5}}
    run = BatchRun(tmp_path / "in.csv", tmp_path / "o=1", Reading(), options, {})

    def scored(self: BatchRun, files: object) -> None:
        raise _Scored

    monkeypatch.setattr(BatchRun, "score", scored)
    with pytest.raises(_Scored):
        run.run()  # notes what it began with
    run.output.mkdir()
    run.checkpoint.mkdir()
    for name, ids in (("u_000000", [1, 2]), ("u_000001", [3, 4])):
        _write(run.output / f"{name}-0.parquet", ids)
        pyarrow.parquet.write_table(pyarrow.table({"row_id": ids}), run.checkpoint / f"{name}.parquet")
    return run


def _said(job: BatchRun) -> str:
    with pytest.raises(ValueError) as error:
        job.run(resume=True)
    assert "\n" not in str(error.value)
    return str(error.value)


def _finish(job: BatchRun) -> None:
    _write(job.output / "u_000002-0.parquet", [5, 6])
    note = job.output.with_name(f"{job.output.name}.options.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "finished": True}))
    shutil.rmtree(job.checkpoint)


def _damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def test_what_a_kill_leaves_is_no_fault(job: BatchRun) -> None:
    """Ray itself removes half a file of a block whose ids are pending; a hidden file is no data."""
    (job.checkpoint / "u_000002.pending.parquet").write_bytes(b"PAR1")
    (job.output / "u_000002-0.parquet").write_bytes(b"PAR1")
    (job.output / ".hidden").write_text("")
    _write(job.output / "u_000003-0.parquet", [])
    with pytest.raises(_Scored):
        job.run(resume=True)


FAULTS: dict[str, tuple[Callable[[BatchRun], object], str]] = {
    "damaged": (
        lambda job: _damage(job.output / "u_000001-0.parquet"),
        "{0}/u_000001-0.parquet, a file of results, is damaged: delete {0}/u_000001-0.parquet and "
        "{0}.checkpoint/u_000001.parquet, and --resume scores its rows again (it cannot be read: ",
    ),
    "lost": (
        lambda job: (job.output / "u_000000-0.parquet").unlink(),
        "the results of {0}.checkpoint/u_000000.parquet are lost: delete what tells that these rows are done",
    ),
    "damaged ids": (
        lambda job: _damage(job.checkpoint / "u_000000.parquet"),
        "{0}.checkpoint/u_000000.parquet, which tells what is done, is damaged: delete it, and the results "
        "whose names begin with u_000000, ",
    ),
    "other columns": (
        lambda job: pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), job.output / "x.parquet"),
        "{0}/x.parquet is no result of this job, as it ",
    ),
    "more columns": (
        lambda job: _write(job.output / "x.parquet", [5], more=[1]),
        "{0}/x.parquet is no result of this job, as it has a column 'more': move it elsewhere, or delete it",
    ),
    "a copy": (
        lambda job: _write(job.output / "copy.parquet", [1, 2]),
        "{0}/copy.parquet holds rows that no file of {0}.checkpoint names, so they would be there twice: ",
    ),
    "other rows": (
        lambda job: _write(job.output / "u_000001-0.parquet", [5, 6]),
        "{0}/u_000001-0.parquet holds other rows than {0}.checkpoint/u_000001.parquet names: delete ",
    ),
    "no parquet": (
        lambda job: (job.output / "notes.txt").write_text("a"),
        "{0}/notes.txt is among the results, but is no .parquet file: move it elsewhere, or delete it",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_an_unfinished_job_is_named_before_it_scores(job: BatchRun, fault: str) -> None:
    do, expected = FAULTS[fault]
    do(job)
    assert _said(job).startswith(expected.format(job.output))


@pytest.mark.parametrize("fault", ["damaged", "lost", "more columns", "a copy"])
def test_a_fault_of_a_finished_job_says_how_to_begin_anew(job: BatchRun, fault: str) -> None:
    _finish(job)
    FAULTS[fault][0](job)
    anew = f"delete {job.output} and {job.output}.options.json, and begin anew"
    expected = {
        "damaged": f"{job.output}/u_000001-0.parquet, a file of results, is damaged: {anew} (",
        "lost": f"{job.output} holds 4 results of 6 texts of {job.source}, so rows are lost: {anew}",
        "more columns": FAULTS[fault][1].format(job.output),
        "a copy": f"{job.output} holds 8 results of 6 texts of {job.source}, so rows are there more than "
        f"once: {anew}",
    }
    assert _said(job).startswith(expected[fault])


DAMAGED = [
    "", "[1]", "[" * 100_000, '{"finished": 1, "options": {}, "dtypes": []}', "\udce9",
    '{"finished": true, "options": [], "dtypes": 1}', '{"finished": false, "options": {}, "dtypes": null}',
    '{"finished": false, "options": {}, "dtypes": [], "without": 1}',
    '{"finished": false, "options": {}, "dtypes": [], "rows": null}',
]  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_note_says_what_can_be_done(job: BatchRun, text: str) -> None:
    """Without its note neither a folder of results nor a file of them can be continued."""
    note = job.output.with_name(f"{job.output.name}.options.json")
    note.write_bytes(text.encode(errors="surrogateescape"))
    assert _said(job) == f"{note} is damaged: delete {job.output} and it, and begin anew"
    shutil.rmtree(job.output)
    job.output.write_text("a result")
    with pytest.raises(ValueError) as error:
        RunNote(job.output, "in.csv", {}, "float32").check(resume=True)
    assert str(error.value) == f"{note} is damaged: delete {job.output} and it, and begin anew"
