"""Faults while classify works lose nothing that is written; a message says how to go on, and that is exact.

A limit on the size of files stands for a full disk: the system's answer comes at the same calls.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet
import pytest

from gliclass_fast import GLiClassModel
from gliclass_fast.cli import classify
from gliclass_fast.cli.job import FAILED_ROWS, INTERRUPTED
from gliclass_fast.cli.results import Outcome
from gliclass_fast.cli.resume import RunNote
from gliclass_fast.cli.rows import Row
from gliclass_fast.cli.writers import OUTPUT_SUFFIXES, ParquetWriter, open_writer
from tests.cli.test_cli import LABELS, kept, run

TEXTS = [f"{number}: a film, a song, a bank" for number in range(40)]
COMMAND = [sys.executable, "-m", "gliclass_fast", "classify"]


@contextmanager
def limited(kind: int, size: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(classify, "TEXTS_AT_A_TIME", 4)
    file = tmp_path / "in.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return file


def words(result: Any) -> str:
    return " ".join(result.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", pytest.param(".csv", marks=pytest.mark.nightly), ".parquet"])
def test_a_full_disk_costs_nothing_that_is_written(texts: Path, tmp_path: Path, suffix: str) -> None:
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    command = ["classify", str(texts), *LABELS, "--threshold", "0", "--output"]
    assert run(*command, str(whole)).exit_code == 0
    size = whole.stat().st_size // 2
    with limited(resource.RLIMIT_FSIZE, size):
        result = run(*command, str(output))
    assert result.exit_code == 2 and f"Add --resume to continue {output}" in words(result), result.stderr
    assert "File too large" in words(result)
    written = output.read_bytes() if output.exists() else b""
    assert (suffix == ".parquet") == (not written)
    with limited(resource.RLIMIT_FSIZE, size):  # there still is no room, and what there is stays
        assert run(*command, str(output), "--resume").exit_code == 2
    assert (output.read_bytes() if output.exists() else b"") == written
    result = run(*command, str(output), "--resume")
    assert result.exit_code == 0, result.stderr
    assert output.read_bytes() == whole.read_bytes()
    assert {file.name for file in tmp_path.iterdir()} == {
        "in.txt", *(f"{each.name}{end}" for each in (whole, output) for end in ("", ".options.json")),
    }  # fmt: skip


@pytest.mark.nightly
def test_a_note_stays_whole_where_no_other_can_be_written(texts: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    command = ["classify", str(texts), *LABELS, "--output", str(output)]
    with limited(resource.RLIMIT_FSIZE, 1000):
        assert run(*command).exit_code == 2
    note = output.with_name("out.jsonl.options.json")
    before, held = note.read_bytes(), output.read_bytes()
    with limited(resource.RLIMIT_FSIZE, 100):
        result = run(*command, "--resume")
    assert result.exit_code == 2 and "Add --resume" in words(result)
    assert note.read_bytes() == before and not json.loads(before)["finished"]
    assert output.read_bytes() == held[: held.rindex(b"\n") + 1]  # without a record that is not whole


def test_a_job_that_has_written_nothing_has_nothing_to_resume(texts: Path, tmp_path: Path) -> None:
    command = ["classify", str(texts), *LABELS, "--output", str(tmp_path / "out.jsonl")]
    with limited(resource.RLIMIT_FSIZE, 0):
        result = run(*command)
    assert result.exit_code == 2 and "stopped after 0 of 40 texts" in words(result), result.stderr
    assert "--resume" not in words(result)
    assert run(*command).exit_code == 0


class Killed(BaseException):
    """Ends a run as SIGKILL does: nothing of the command handles it."""


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every text get every label."""

    def scorer(scoring: Any, *_: Any) -> Any:
        found = Outcome([{"label": label, "score": 1.0} for label in scoring.labels])
        return lambda rows, first: [found] * len(rows), ""

    monkeypatch.setattr(classify, "_scorer", scorer)
    monkeypatch.setattr(GLiClassModel, "from_pretrained", lambda *_, **__: SimpleNamespace(dtype=""))


def killed(*_: Any, **__: Any) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("suffix", "step"),
    # what is made to stand for SIGKILL still closes files, and so writes a head where the format has one
    [*itertools.product(OUTPUT_SUFFIXES, ["start", "write", "close"]), (".jsonl", "begin")],
)
def test_a_run_that_is_killed_early_leaves_no_results_of_the_run_before(
    texts: Path, tmp_path: Path, suffix: str, step: str, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / f"out{suffix}"
    elsewhere = tmp_path / f"elsewhere{suffix}"
    output.symlink_to(elsewhere)
    elsewhere.touch()
    command = ["classify", str(texts), "--output", str(output), "--labels"]
    assert run(*command, "music,cooking").exit_code == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        writer = type(open_writer(output, resume=False))
        patch.setattr(RunNote if step in ("begin", "write") else writer, step, killed)
        run(*command, "sport,banking")
    result = run(*command, "sport,banking", "--resume")
    if step == "start":  # the run before is whole still
        assert result.exit_code == 2 and "with the same: labels" in words(result)
    else:
        assert result.exit_code == 0, result.stderr
    found = output.read_bytes()
    assert (b"music" in found, b"sport" in found) == (step == "start", step != "start")
    assert kept(output) == kept(elsewhere) == TEXTS and output.is_symlink()


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_an_interrupt_says_how_many_texts_the_file_holds(
    texts: Path, tmp_path: Path, suffix: str, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = type(open_writer(tmp_path / f"out{suffix}", resume=False))
    write, calls = writer.write, itertools.count(1)

    def interrupted(*given: Any) -> None:
        if next(calls) == 7:  # in the midst of a part
            raise KeyboardInterrupt
        write(*given)

    monkeypatch.setattr(writer, "write", interrupted)
    output = tmp_path / f"out{suffix}"
    for held, options in ((6, []), (6, ["--resume"])):
        result = run("classify", str(texts), "--labels", "a", "--output", str(output), *options)
        assert result.exit_code == INTERRUPTED and f"after {held} of 40 texts" in words(result)
        assert kept(output) == TEXTS[:held]
        calls = itertools.count(7)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_a_signal_while_a_file_is_written_to_its_end_changes_nothing(
    texts: Path, tmp_path: Path, suffix: str, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, before = tmp_path / f"out{suffix}", signal.getsignal(signal.SIGINT)
    writer = type(open_writer(output, resume=False))
    write, close, note, calls = writer.write, writer.close, RunNote.write, itertools.count(1)

    def interrupted(*given: Any) -> None:
        if next(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        write(*given)

    def closed(own: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        close(own)

    def noted(own: RunNote, finished: bool = False) -> None:
        if finished:
            signal.raise_signal(signal.SIGINT)
        note(own, finished)

    monkeypatch.setattr(writer, "write", interrupted)
    monkeypatch.setattr(writer, "close", closed)
    monkeypatch.setattr(RunNote, "write", noted)
    command = ["classify", str(texts), "--labels", "a", "--output", str(output)]
    result = run(*command)
    assert result.exit_code == INTERRUPTED and "after 6 of 40 texts; add --resume" in words(result)
    assert kept(output) == TEXTS[:6]
    result = run(*command, "--resume")
    assert result.exit_code == 0, result.stderr
    assert kept(output) == TEXTS and signal.getsignal(signal.SIGINT) is before
    finished = json.loads(output.with_name(f"{output.name}.options.json").read_text())["finished"]
    assert finished and len(list(tmp_path.iterdir())) == 3


def test_a_resumed_run_that_is_killed_goes_on_from_the_parquet_file_as_it_was(
    texts: Path, tmp_path: Path, no_model: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results look alike and rows that failed have none, so the note alone tells what the file holds."""
    rows, output, end = tmp_path / "in.csv", tmp_path / "out.parquet", 12
    rows.write_text("shop,text\n" + "".join(f"north,{number}\n" for number in range(40)))

    def score(rows: list[Row], first: int) -> list[Outcome]:
        if first == end:
            raise KeyboardInterrupt
        found = [Outcome([{"label": str(row.text), "score": 1.0}]) for row in rows]
        return [each if number % 3 else Outcome(None, "none") for number, each in enumerate(found, first)]

    monkeypatch.setattr(classify, "_scorer", lambda *_: (score, ""))
    options = ["--labels", "a", "--keep", "shop", "--no-text", "--on-error", "skip"]
    command = ["classify", str(rows), "--output", str(output), *options]
    assert run(*command).exit_code == INTERRUPTED
    end = len(TEXTS)
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(ParquetWriter, "close", killed)
            run(*command, "--resume")
    assert run(*command, "--resume").exit_code == FAILED_ROWS
    found = pyarrow.parquet.read_table(output)["labels"].to_pylist()
    assert found == [[str(number)] for number in range(40) if number % 3]


def test_a_folder_that_cannot_be_written_to(texts: Path) -> None:
    result = run("classify", str(texts), *LABELS, "--output", "/sys/out.jsonl")  # not by root either
    assert result.exit_code == 2
    assert "/sys/out.jsonl cannot be locked by the file /sys/.out.jsonl.lock: Permission denied" in words(
        result
    )


def started(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [*COMMAND, *arguments, *LABELS, "--threshold", "0"]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **options)


def wait_for(file: Path, size: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size >= size):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.nightly
@pytest.mark.parametrize(("suffix", "step"), [(".jsonl", 60_000), (".csv", 40_000)])
def test_a_job_that_is_killed_again_and_again_ends_exactly(tmp_path: Path, suffix: str, step: int) -> None:
    texts, output = tmp_path / "in.txt", tmp_path / f"out{suffix}"
    texts.write_text("".join(f'{number} a "film", a song\n' for number in range(3000)), encoding="utf-8")
    for kills in range(1, 6):
        with started(str(texts), "--output", str(output), "--resume") as process:
            wait_for(output, step * kills, process)
            process.kill()
        written = kept(output)
        assert written == [line.rstrip() for line in texts.read_text().splitlines()[: len(written)]]
    with started(str(texts), "--output", str(output), "--resume") as process:
        assert process.wait() == 0
    whole = tmp_path / f"whole{suffix}"
    with started(str(texts), "--output", str(whole)) as process:
        assert process.wait() == 0
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.nightly
def test_a_pipe_that_nobody_reads_does_not_hold_a_job_that_shall_end() -> None:
    with started("-", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("a film\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["text"] == "a film"
        os.set_blocking(process.stdin.fileno(), False)
        while os.path.exists(f"/proc/{process.pid}"):  # until both pipes are full
            try:
                os.write(process.stdin.fileno(), b"a film\n" * 1000)
            except BlockingIOError:
                time.sleep(1)
                if not _moves(process.pid):
                    break
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == INTERRUPTED


def _moves(pid: int) -> bool:
    """Tells whether a process takes time of the CPU."""

    def used() -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]

    before = used()
    time.sleep(1)
    return used() != before


@pytest.mark.nightly
@pytest.mark.parametrize("megabytes", [400, 700])
@pytest.mark.parametrize("command", [["classify", "a film"], ["serve"]])
def test_a_process_without_the_memory_to_load_says_so(megabytes: int, command: list[str]) -> None:
    asked = [sys.executable, "-m", "gliclass_fast", *command, *(LABELS if command[0] == "classify" else ())]
    limit = f'ulimit -v {megabytes << 10}; exec "$@"'
    done = subprocess.run(["sh", "-c", limit, "sh", *asked], capture_output=True, text=True, timeout=120)
    last = done.stderr.splitlines()[-1]  # a service may have logged before
    assert done.returncode == 2 and last.startswith("error: out of memory: "), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.nightly
def test_a_batch_without_the_memory_it_needs_runs_in_halves(tmp_path: Path) -> None:
    texts, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    texts.write_text("".join(f"{number} {'a song ' * 250}\n" for number in range(192)), encoding="utf-8")
    limit = 'ulimit -v 1500000; exec "$@"'
    asked = [*COMMAND, str(texts), *LABELS, "--batch-tokens", "1000000", "--output", str(output)]
    done = subprocess.run(["sh", "-c", limit, "sh", *asked], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "runs in halves" in " ".join(done.stderr.split()), done.stderr
    assert len(kept(output)) == 192


@pytest.mark.slow
def test_an_error_that_nobody_reads_keeps_its_exit_code(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*COMMAND, str(tmp_path / "nothing.csv"), "--labels", "a"]
    assert subprocess.run(command, stderr=write, check=False).returncode == 2
    os.close(write)
    with open("/dev/full", "wb") as full:
        assert subprocess.run(command, stderr=full, check=False).returncode == 2
