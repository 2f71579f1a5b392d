"""An output has one job at a time: another one is refused at once, and a job that was killed stops nobody."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from gliclass_fast.cli import app, lock
from gliclass_fast.cli.batch_run import BatchRun
from gliclass_fast.cli.job import Job
from gliclass_fast.cli.lock import alone
from gliclass_fast.cli.rows import Reading

LABELS = ["--labels", "a,b", "--device", "cpu"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app.app, list(arguments))


@pytest.mark.parametrize("command", ["classify", "batch"])
@pytest.mark.parametrize("resume", [True, False])
def test_the_second_job_of_an_output_is_refused_at_once(command: str, resume: bool, tmp_path: Path) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text("text\none\n")
    options = [command, str(source), "--output", str(output), *LABELS, *(["--resume"] if resume else [])]
    with alone(output):
        held = sorted(tmp_path.iterdir())
        result = run(*options)
        assert result.exit_code == 2 and f"error: another job writes {output}: wait" in result.stderr
        assert len(result.stderr.splitlines()) == 1 and sorted(tmp_path.iterdir()) == held
    assert list(tmp_path.iterdir()) == [source]


def test_classify_holds_its_output_while_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output, refused = tmp_path / "in.csv", tmp_path / "out.jsonl", []
    source.write_text("text\none\n")
    works = Job.run

    def while_held(*arguments: Any) -> None:
        with pytest.raises(ValueError, match="another job writes"), alone(output):
            pass
        refused.append(output)
        works(*arguments)

    monkeypatch.setattr(Job, "run", while_held)
    result = run("classify", str(source), "--output", str(output), *LABELS)
    assert result.exit_code == 0, result.stderr
    assert refused == [output] and output.exists()


def test_a_folder_without_locks_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: Any, **options: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.FileLock, "acquire", fails)
    with alone(tmp_path / "out"):
        pass
    assert "has no locks: no other job must write it" in caplog.text


def test_the_file_of_a_lock_that_is_gone_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another job ended between this one's open and its lock, in older versions of filelock."""
    acquire, path, times = lock.FileLock.acquire, tmp_path / ".out.lock", []

    def acquires(held: Any, **options: Any) -> None:
        acquire(held, **options)
        times.append(path)
        if len(times) == 1:
            path.unlink()

    monkeypatch.setattr(lock.FileLock, "acquire", acquires)
    with alone(tmp_path / "out"):
        assert path.exists() and len(times) == 2


def test_a_link_and_what_it_leads_to_are_one_output(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with alone(tmp_path / "out"):
        with pytest.raises(ValueError, match="another job writes"), alone(tmp_path / "link"):
            pass
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "link"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_a_job_that_was_killed_stops_nobody(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from gliclass_fast.cli.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    output = tmp_path / "out"
    line = [sys.executable, "-c", program, str(output)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None and job.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another job writes"), alone(output):
            pass
        job.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.iterdir()] == [".out.lock"]  # which no reader takes for data
    with alone(output):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_file_is_no_other_job(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match=r"no file can be written into /proc: "),
        alone(Path("/proc/x.jsonl")),
    ):
        pass


def test_a_batch_that_does_not_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(run: BatchRun, files: Any) -> None:
        raise ValueError("Ray did not start")

    monkeypatch.setattr(BatchRun, "score", failing)
    with pytest.raises(ValueError, match="Ray did not start"):
        batch_of(tmp_path).run(resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


def batch_of(folder: Path) -> BatchRun:
    (folder / "in.csv").write_text("text\none\ntwo\n")
    options = {"model": "m", "labels": ["a"], "dtype": None, "call": {"threshold": 0.5}}
    return BatchRun(folder / "in.csv", folder / "out", Reading(), options, {})


def scored(run: BatchRun, copies: int) -> None:
    """Writes results as a job does, each of them so many times."""
    run.output.mkdir()
    run.checkpoint.mkdir()
    rows = {"tokens_cut": pyarrow.array([0, 0] * copies, pyarrow.int32())}
    rows["error"] = pyarrow.nulls(2 * copies, pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table(rows), run.output / "a.parquet")


def test_a_batch_job_holds_its_output_from_the_first_look_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, steps = batch_of(tmp_path), []

    def while_held(step: str, then: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            with pytest.raises(ValueError, match="another job writes"):
                job.run(resume=True)
            steps.append(step)
            return then(*arguments, **options)

        return call

    monkeypatch.setattr(BatchRun, "score", while_held("score", lambda run, files: scored(run, 1)))
    for step in ("_goes_on", "_summary"):
        monkeypatch.setattr(BatchRun, step, while_held(step, getattr(BatchRun, step)))
    job.run()
    assert steps == ["_goes_on", "score", "_summary"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out", "out.options.json"]
    assert json.loads((tmp_path / "out.options.json").read_text())["finished"]


def test_results_that_are_there_twice_say_how_to_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = batch_of(tmp_path)
    monkeypatch.setattr(BatchRun, "score", lambda run, files: scored(run, 2))
    out = tmp_path / "out"
    with pytest.raises(ValueError) as error:
        job.run()
    assert str(error.value) == (
        f"{out} holds 4 results of 2 texts of {tmp_path / 'in.csv'}, so rows are there more than once: "
        f"delete {out} and {out}.options.json, and begin anew"
    )
