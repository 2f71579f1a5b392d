"""The threads of csrc/cpu/parallel.cpp, by themselves: a program shares work from many threads at once."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARALLEL = ROOT / "csrc" / "cpu" / "parallel.cpp"
HALT = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
OPTIONS = {"ThreadSanitizer": ["-O1", "-g", "-fsanitize=thread"], "a fork": ["-O2"]}


def run(folder: Path, source: str, options: list[str], *arguments: str) -> str:
    """Builds the program around this source in a folder, and returns what it writes."""
    parallel, program = folder / "parallel.cpp", folder / "program"
    parallel.write_text(source, encoding="utf-8")
    main = Path(__file__).with_name("parallel.cpp")
    command = ["g++", "-std=gnu++17", "-pthread", *options, f"-I{PARALLEL.parent}"]
    subprocess.run([*command, str(parallel), str(main), "-o", str(program)], check=True)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, env=HALT)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("what", OPTIONS)
def test_every_task_runs_once(what: str, tmp_path: Path) -> None:
    arguments = ["fork"] if what == "a fork" else []
    assert run(tmp_path, PARALLEL.read_text(encoding="utf-8"), OPTIONS[what], *arguments) == "0 wrong\n"


@pytest.mark.nightly
def test_the_sanitizer_sees_a_race(tmp_path: Path) -> None:
    """Where threads do not ask whether a task was taken meanwhile, it runs twice."""
    source = PARALLEL.read_text(encoding="utf-8")
    asked = "if (!job.ticket.compare_exchange_weak(ticket, ticket - 1)) continue;"
    assert asked in source
    broken = source.replace(asked, "job.ticket = ticket - 1;")
    assert "data race" in run(tmp_path, broken, OPTIONS["ThreadSanitizer"])
