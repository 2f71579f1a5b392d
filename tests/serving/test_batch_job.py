"""Batch jobs on a real cluster of Ray: killed with SIGKILL and resumed, every row is there once and exact."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import ray
from typer.testing import CliRunner

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.cli.batch_files import files_of, tables
from gliclass_fast.cli.batch_run import BatchRun
from gliclass_fast.cli.job import INTERRUPTED
from gliclass_fast.cli.rows import Reading
from gliclass_fast.serving import ray_cluster
from gliclass_fast.serving.ray_cluster import Actors, Cluster, connected
from gliclass_fast.serving.ray_data import Classifier
from gliclass_fast.serving.ray_job import BatchJob, Rows
from tests.serving import counted

ROOT = Path(__file__).parent.parent.parent
LABELS = ["positive review", "negative review", "music"]
WORDS = ["film", "music", "cooking", "travel", "bank", "rocket", "great", "dull", "awful", "happy"]
IN_FLIGHT = 2  # blocks of an actor that a kill may cost
PAUSE = 0.3  # seconds


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Starts a cluster and yields its address."""
    with connected(Cluster(count=1)):
        yield ray.get_runtime_context().gcs_address


def texts_of(count: int) -> list[str | None]:
    words = random.Random(0)
    texts: list[str | None] = [f"{row} {' '.join(words.choices(WORDS, k=4))}" for row in range(count)]
    texts[7] = None
    return texts


def write(folder: Path, count: int, together: bool = False) -> Path:
    """Writes texts as two files of several row groups, or as a file of one."""
    folder.mkdir()
    table = pyarrow.table({"text": texts_of(count), "key": range(count)})
    first, size = (count, count) if together else (count // 3, count // 4)
    for name, part in (("a", table.slice(0, first)), ("b", table.slice(first))):
        if part.num_rows:
            pyarrow.parquet.write_table(part, folder / f"{name}.parquet", row_group_size=size)
    return folder


def check_results(output: Path, count: int) -> None:
    """Every row is there once, and as exact as float32 with the library's own scores."""
    rows = sorted(pyarrow.parquet.read_table(output).to_pylist(), key=lambda row: row["row_id"])
    assert [row["key"] for row in rows] == list(range(count))
    texts = texts_of(count)
    assert "text" not in rows[0] or [row["text"] for row in rows] == texts
    assert [row["key"] for row in rows if row["error"]] == [7] and rows[7]["labels"] is None
    rows.pop(7)
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    for row, own in zip(
        rows, pipeline([texts[row["key"]] for row in rows], LABELS, threshold=0), strict=True
    ):
        best = sorted(own, key=lambda each: -each["score"])
        assert row["labels"] == [each["label"] for each in best]
        np.testing.assert_allclose(row["scores"], [each["score"] for each in best], atol=2e-6)


def started(log: Path, *arguments: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.serving.counted", str(log), *map(str, arguments)]
    with log.with_suffix(".err").open("ab") as err:
        return subprocess.Popen(command, cwd=ROOT, stderr=err)


def wait_for(log: Path, batches: int, job: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 240
    while len(counted.read(log)) < batches:
        ended = job is not None and job.poll() is not None
        assert time.monotonic() < end and not ended, log.with_suffix(".err").read_text()
        time.sleep(0.02)


def kill_an_actor(log: Path, batches: int) -> threading.Thread:
    """Kills the process that scored last, once so many batches were begun."""

    def kill() -> None:
        wait_for(log, batches)
        os.kill(counted.read(log)[-1]["pid"], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


def rows_scored(log: Path) -> int:
    return sum(len(batch["rows"]) for batch in counted.read(log))


def options_of(source: Path, output: Path, actors: int, block: int) -> list[str]:
    return [
        str(source), "--output", str(output), "--labels", ",".join(LABELS), "--threshold", "0", "--resume",
        "--keep", "key", "--device", "cpu", "--concurrency", str(actors), "--block-rows", str(block),
    ]  # fmt: skip


@pytest.mark.nightly
def test_a_job_survives_the_driver_and_an_actor(tmp_path: Path, cluster: str) -> None:
    """The driver is killed, and in the run that resumes an actor: a kill costs two blocks at most."""
    count, block = 160, 10
    output, log = tmp_path / "out", tmp_path / "log"
    options = options_of(write(tmp_path / "in", count), output, 1, block)
    job = started(log, PAUSE, "small", *options, "--address", cluster)
    wait_for(log, 6, job)
    job.kill()
    job.wait()
    before = rows_scored(log)
    assert 0 < before < count
    killing = kill_an_actor(log, len(counted.read(log)) + 3)
    with counted.counted(log, PAUSE):
        result = CliRunner().invoke(counted.app, options)
    killing.join()
    assert result.exit_code == 3, result.output  # as one row is null
    assert f"{count} texts of" in result.stderr and f"1 of {count} rows failed" in result.stderr
    check_results(output, count)
    assert len({batch["pid"] for batch in counted.read(log)}) == 3
    assert {len(batch["rows"]) for batch in counted.read(log)} <= set(range(1, block + 1))
    assert rows_scored(log) - count <= 2 * IN_FLIGHT * block


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_is_interrupted_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    """Its cluster is its own, which takes signals for itself when it begins."""
    output, log = tmp_path / "out", tmp_path / "log"
    job = started(log, PAUSE, "small", *options_of(write(tmp_path / "in", 3000), output, 1, 10))
    wait_for(log, 3, job)
    job.send_signal(number)
    assert job.wait(60) == INTERRUPTED
    assert f"interrupted; add --resume to continue {output}" in log.with_suffix(".err").read_text()


@pytest.mark.nightly
@pytest.mark.parametrize("small_blocks", [True, False])
def test_small_blocks_are_what_a_kill_costs_little_by(tmp_path: Path, small_blocks: bool) -> None:
    """A job of a cluster of its own, which ends with the driver; without small blocks all is scored again."""
    count, block, actors = 3000, 128, 2
    output, log = tmp_path / "out", tmp_path / "log"
    options = options_of(write(tmp_path / "in", count, together=True), output, actors, block)
    options += ["--no-text"]
    blocks = "small" if small_blocks else "whole"
    job = started(log, 0, blocks, *options)
    wait_for(log, 9 if small_blocks else 1, job)
    time.sleep(0 if small_blocks else 3)  # much of the large block is scored
    job.kill()
    job.wait()
    again = started(log, 0, blocks, *options)
    assert again.wait() == 3, log.with_suffix(".err").read_text()
    check_results(output, count)
    extra = rows_scored(log) - count
    assert 0 < extra <= IN_FLIGHT * actors * block if small_blocks else extra == count


@pytest.mark.nightly
def test_the_class_in_a_dataset_of_ones_own(cluster: str) -> None:
    """Batches of NumPy and of pyarrow give the same rows."""
    texts, found = texts_of(40), []
    rows = ray.data.from_items([{"key": key, "text": text} for key, text in enumerate(texts)])
    for batch_format in ("numpy", "pyarrow"):
        scored = rows.map_batches(
            Classifier, fn_constructor_kwargs={"labels": LABELS, "device": "cpu"},
            batch_size=16, batch_format=batch_format, num_cpus=1, compute=ray.data.ActorPoolStrategy(size=1),
        )  # fmt: skip
        found.append(sorted(scored.take_all(), key=lambda row: row["key"]))
    assert [row["text"] for row in found[0]] == texts and found[0][7]["error"] == "the text is null"
    for one, other in zip(*found, strict=True):
        assert list(one["labels"] or ()) == list(other["labels"] or ())
        np.testing.assert_allclose(one["scores"] or (), other["scores"] or (), atol=1e-6)


@pytest.mark.nightly
def test_a_mistake_that_only_an_actor_finds_is_one_line(tmp_path: Path, cluster: str) -> None:
    source = write(tmp_path / "in", 100)
    rows = Rows(files_of(source, Reading()).pieces, partial(tables, reading=Reading()))
    options = {"labels": LABELS, "model": str(tmp_path / "nothing"), "device": "cpu"}
    job = BatchJob(rows, options, tmp_path / "out", tmp_path / "out.checkpoint")
    with pytest.raises(
        ValueError, match=r"^\S*nothing does not exist, and .* is not a repository id"
    ) as error:
        job.run(Actors(1, 1, 0))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cluster", "there", "expected"),
    [
        (Cluster(), {"CPU": 10.0}, Actors(8, 1, 0)),
        (Cluster(cpus=3), {"CPU": 10.0}, Actors(2, 3, 0)),
        (Cluster(cpus=3), {"CPU": 64.0, "GPU": 4.0}, Actors(4, 3, 1)),
        (Cluster(gpus=0.5), {"CPU": 64.0, "GPU": 4.0}, Actors(8, 1, 0.5)),
        (Cluster(gpus=0), {"CPU": 6.0, "GPU": 4.0}, Actors(4, 1, 0)),
        (Cluster(count=2), {"CPU": 64.0}, Actors(2, 1, 0)),
        (
            Cluster(count=2),
            {"CPU": 3.0},
            "the cluster has 3 CPUs and 0 GPUs: 2 actors need 4 CPUs and 0 GPUs",
        ),
        (Cluster(gpus=1), {"CPU": 8.0}, "the cluster has 8 CPUs and 0 GPUs: 1 actors need 3 CPUs and 1 GPUs"),
    ],
)
def test_actors_are_as_many_as_fit(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, there: dict[str, float], expected: Actors | str
) -> None:
    """A job that has no room is refused, as Ray would wait for it without an end."""
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    if isinstance(expected, Actors):
        with connected(cluster) as actors:
            assert actors == expected
    else:
        with pytest.raises(ValueError, match=expected), connected(cluster):
            pass


@pytest.mark.parametrize(
    ("device", "gpus", "warns"), [("cuda", 0, 1), ("cuda:0", 1, 0), (None, 0, 0), ("cpu", 0, 0)]
)
def test_a_job_warns_of_a_gpu_that_was_named_and_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, device: str | None, gpus: float, warns: int
) -> None:
    """What the actors log does not reach the command."""
    (tmp_path / "in.csv").write_text("text\none\n")
    options = {"model": "m", "labels": ["a"], "device": device, "dtype": None, "call": {}}
    run = BatchRun(tmp_path / "in.csv", tmp_path / "out", Reading(), options, {})
    monkeypatch.setattr(ray_cluster, "connected", lambda cluster: nullcontext(Actors(1, 1, gpus)))
    monkeypatch.setattr(BatchJob, "run", lambda job, actors: None)
    run.score(files_of(run.source, run.reading, run.output))
    assert sum("run on the CPU" in message for message in caplog.messages) == warns


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would wait without a word; addresses without a port are left to it."""
    asked: list[str] = []
    # `connected` silences them, and pytest's own that collects the log is among them
    monkeypatch.setattr(logging.getLogger("ray.data"), "handlers", [])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        for address in (there, f"ray://{there}", "auto", None):
            with connected(Cluster(address=address, count=1)):
                pass
    assert asked == [there, f"ray://{there}", "auto", "local"]
    for address in (there, f"ray://{there}"):
        message = f"no cluster of Ray answers at {address}: .*refused"
        with pytest.raises(ValueError, match=message), connected(Cluster(address=address)):
            pass
    assert len(asked) == 4


def test_a_start_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises Exception itself where it takes too long to start, and leaves its processes."""
    timed_out, ended = Exception("The current node timed out\nduring startup"), Mock()
    monkeypatch.setattr(ray, "init", Mock(side_effect=timed_out))
    monkeypatch.setattr(ray, "shutdown", ended)
    with pytest.raises(OSError, match=r"^Ray did not start: The current node timed out during startup$"):
        ray_cluster.connect(None)
    assert ended.called


def test_a_cluster_that_refuses_is_told_of_tokens() -> None:
    refused = ray_cluster.no_answer("host:1", RuntimeError("Timed out\nwhile waiting"))
    asks = "If it asks for a token, set RAY_AUTH_MODE=token"
    assert refused == f"no cluster of Ray answers at host:1: Timed out while waiting. {asks}"
    assert asks not in ray_cluster.no_answer("host:1", ConnectionRefusedError("refused"))
    assert ray_cluster.no_answer(None, RuntimeError("why")) == "Ray did not start: why"


def test_a_home_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/a/home")
    denied = PermissionError(13, "Permission denied", "/a/home/.ray")
    assert "set HOME to a folder that can be written" in ray_cluster.no_answer(None, denied)
    elsewhere = PermissionError(13, "Permission denied", "/another/folder")
    assert "HOME" not in ray_cluster.no_answer(None, elsewhere)
