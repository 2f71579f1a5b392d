"""Steps in processes of their own: each has a limit and is killed whole, and its result is noted at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, Any

GRACE = 3.0  # seconds between asking a group of processes to end and killing it
LINES = 400  # The last lines of a step's output are kept, up to this number.


@dataclass(frozen=True, slots=True)
class Step:
    """A step is one command."""

    name: str
    command: Sequence[str]
    seconds: float = float("inf")  # This limit stands beside the one of its phase.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase's steps run one after the other, or side by side where they mostly use the host."""

    name: str
    steps: Sequence[Step]
    until: float  # seconds after the start of the plan at which the phase ends
    side_by_side: bool = False


class Journal:
    """A journal keeps what is known in gpu_check.json; steps append rows to rows.jsonl beside it."""

    def __init__(self, folder: Path, **facts: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.rows_file = folder / "gpu_check.json", folder / "rows.jsonl"
        self.rows_file.write_text("", encoding="utf-8")
        self._lock = Lock()
        self.result: dict[str, Any] = {**facts, "finished": False, "failures": [], "steps": {}, "rows": []}
        self.write()

    def write(self) -> None:
        """Exchanges the file for a newer one, so that it is whole at any moment."""
        rows = []
        for line in self.rows_file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):  # A killed step may have left half a line.
                rows.append(json.loads(line))
        self.result["rows"] = rows
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.result, indent=1, default=str) + "\n", encoding="utf-8")
        new.replace(self.file)

    def note(self, name: str, record: dict[str, Any]) -> None:
        """Writes down what became of a step."""
        with self._lock:
            self.result["steps"][name] = record
            if record["returncode"] != 0:
                self.result["failures"].append(name)
            self.write()


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Adds a line to rows.jsonl, by one write, so that processes may share the file."""
    line = (json.dumps(row) + "\n").encode()
    descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # A killed step left half a line.
        os.write(descriptor, b"\n" + line if torn else line)
    finally:
        os.close(descriptor)


def follow(plan: Sequence[Phase], journal: Journal, folder: Path) -> None:
    """Runs a plan in `folder`. Whatever a step does, the next ones run, within the limits of their phases.

    An exception here, such as a signal may raise, ends the steps that run.
    """
    start, runner = time.perf_counter(), Runner(folder)
    for phase in plan:
        at_a_time = max(1, len(phase.steps)) if phase.side_by_side else 1
        threads = max(1, (os.cpu_count() or 1) // at_a_time)

        def run(step: Step, until: float = phase.until, threads: int = threads) -> None:
            limit = min(step.seconds, start + until - time.perf_counter())
            record = runner.run(step, limit, threads)
            print(f"{step.name}: {record['seconds']} s, {record['problem'] or 'done'}", flush=True)
            journal.note(step.name, record)

        with ThreadPoolExecutor(at_a_time) as pool:
            try:
                list(pool.map(run, phase.steps))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                runner.end()
                raise


class Runner:
    """A runner runs steps in a folder, from several threads, and can end all that run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, step: Step, limit: float, threads: int) -> dict[str, Any]:
        """Runs one step for at most `limit` seconds.

        It returns the returncode (None where there is none), the seconds, the problem (or None) and the last
        lines of the output, those of a killed step too.
        """
        start = time.perf_counter()
        returncode: int | None = None
        with tempfile.TemporaryFile() as output:
            try:
                returncode, problem = self._wait(step, limit, threads, output)
            except Exception as error:  # The command may not exist, say.
                problem = f"{step.command[0]}: {error!r}"
            output.seek(0)
            lines = output.read().decode(errors="replace").splitlines()[-LINES:]
        seconds = round(time.perf_counter() - start, 1)
        return {"returncode": returncode, "seconds": seconds, "problem": problem, "output": lines}

    def end(self) -> None:
        for process in tuple(self._running):
            _end_group(process)

    def _wait(
        self, step: Step, limit: float, threads: int, output: IO[bytes]
    ) -> tuple[int | None, str | None]:
        """Waits for a step and returns the exit status and what is wrong."""
        if limit <= 0:
            return None, "no time was left"
        process = subprocess.Popen(
            list(step.command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            cwd=self._folder, env={**os.environ, "OMP_NUM_THREADS": str(threads), **step.environment},
            start_new_session=True,
        )  # fmt: skip
        self._running.append(process)
        try:
            returncode = process.wait(limit)
        except subprocess.TimeoutExpired:
            return None, f"killed after {limit:.0f} s"
        finally:
            self._running.remove(process)
            _end_group(process)
        return returncode, None if returncode == 0 else f"exit status {returncode}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a step and all it started: a tool that is killed alone leaves the program it watches behind."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, ending)
        except ProcessLookupError:
            return
        if ending is signal.SIGTERM and process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    process.wait()
