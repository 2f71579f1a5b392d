"""gpu_check follows its plan without a GPU, and nothing a step does costs what the others found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from gliclass_fast import demo
from gliclass_fast.bench.cases import Case
from gliclass_fast.bench.run import Bench
from tools import gpu_check, gpu_steps
from tools.supervise import Journal, Phase, Step, append_row, follow

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tools" / "gpu_check.py"
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "gpu_check.json").read_text(encoding="utf-8"))
    return found


def python(name: str, code: str, seconds: float = 60) -> Step:
    return Step(name, [sys.executable, "-c", code], seconds)


def alive(process: int) -> bool:
    """Says whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_step(check: subprocess.Popen[bytes], file: Path) -> int:
    """Gives the process of a step that writes it to a file, once it runs."""
    while not (file.exists() and file.read_text(encoding="utf-8")):
        assert check.poll() is None
        time.sleep(0.05)
    return int(file.read_text(encoding="utf-8"))


def check(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = ["--device", "cpu", "--dtypes", "float32", "--shapes", str(demo.PATH), "--repeats", "1"]
    given += ["--minutes", "80"]  # a busy machine may be slower than the limits of the default eight
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    inherited["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that wait leave the processor to the other tests
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(folder), *given, *options],
        capture_output=True, text=True, check=False, env={**inherited, **environment},
    )  # fmt: skip


SHAPE = f"{demo.PATH} float32"
TESTS = ("test_compiled", "test_graphs", "test_streaming", "test_overflow", "test_parity", "test_kernels")
MEASURED = ("facts", f"warm {SHAPE}", f"shape {SHAPE}", "ceilings", "tiles", "operations")


def test_the_whole_plan(tmp_path: Path) -> None:
    options = Namespace(
        device="cpu", dtypes="float32", shapes=str(demo.PATH), repeats=1, minutes=8.0, only=None, wheels=None
    )
    steps = [step for phase in gpu_check.plan(options, tmp_path) for step in phase.steps]
    order = [*MEASURED[:2], *TESTS[:2], *MEASURED[2:], *TESTS[2:]]
    assert [step.name for step in steps] == order
    files = [part for step in steps for part in step.command if part.startswith("tests/")]
    assert files == [f"tests/gpu/{name}.py" for name in TESTS]
    assert {ROOT / file for file in files} == set(ROOT.glob("tests/gpu/test_*.py"))
    options.device = "cuda"
    on_gpu = {step.name for phase in gpu_check.plan(options, tmp_path) for step in phase.steps}
    assert on_gpu == {*order, "build", "memcheck", "racecheck"}


@pytest.mark.parametrize("coming", [True, False])
def test_tests_share_the_cores_if_the_wheels_bring_xdist(
    coming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "find_spec", lambda name: None)
    if coming:
        (tmp_path / "pytest_xdist-3.8.0-py3-none-any.whl").touch()
    options = Namespace(
        device="cuda", dtypes="float16", shapes="a", repeats=1, minutes=8.0, only=None, wheels=tmp_path
    )
    steps = {step.name: step for phase in gpu_check.plan(options, tmp_path) for step in phase.steps}
    assert ("-n" in steps["test_kernels"].command) == coming


def test_what_was_left_runs_in_another_call(tmp_path: Path) -> None:
    """What the last line of a call names goes to the next one as it is, and has no limits of its own."""
    failed = ", ".join((f"shape {SHAPE}", "tiles", "test_kernels"))
    options = Namespace(
        device="cuda",
        dtypes="float32",
        shapes=str(demo.PATH),
        repeats=1,
        minutes=4.0,
        only=failed,
        wheels=None,
    )
    phases = gpu_check.plan(options, tmp_path)
    assert [step.name for phase in phases for step in phase.steps] == failed.split(", ")
    assert all(step.seconds == float("inf") for phase in phases for step in phase.steps)
    assert all(phase.until == 240 for phase in phases)


@pytest.mark.nightly
@pytest.mark.slow
def test_every_kind_of_step_runs(tmp_path: Path) -> None:
    """One of the files of tests runs, which differ in nothing but their name."""
    done = check(tmp_path, "--only", f"facts,warm,shape,operations,{TESTS[0]}")
    found = read(tmp_path)
    assert done.returncode == 0 and found["finished"] and found["accurate"], done.stdout + done.stderr
    assert not found["failures"] and all(step["returncode"] == 0 for step in found["steps"].values())
    assert sorted(found["steps"]) == sorted((*MEASURED, TESTS[0]))
    timed = [row for row in found["rows"] if "case" in row and row["step"] == "shape"]
    alone, beside = ([row for row in timed if row["beside"] == who] for who in ("nobody", "peers"))
    assert [row["case"] for row in alone] == [row["case"] for row in beside] and len(alone) == 2
    assert all(row["forward"]["gliclass-fast"]["median"] > 0 for row in timed)
    assert all("gliclass" in row["pipeline"] for row in beside)
    assert {row["step"] for row in found["rows"]} == {name.split()[0] for name in MEASURED}
    assert len(list(tmp_path.iterdir())) <= 8  # few enough to be taken away one by one


def test_a_mistyped_step_is_refused(tmp_path: Path) -> None:
    mistyped = check(tmp_path, "--only", "shaeps")
    assert mistyped.returncode == 2 and "no step is shaeps" in mistyped.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", [pytest.param("gliclass", marks=pytest.mark.nightly), "torch"])
def test_without_a_package_the_failure_is_written_down(package: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / f"{package}.py").write_text(f"raise ImportError('{package} is not here')\n", encoding="utf-8")
    path = os.pathsep.join(filter(None, (str(absent), os.environ.get("PYTHONPATH"))))
    done = check(tmp_path, "--only", "facts,shape", PYTHONPATH=path)
    found = read(tmp_path)
    assert done.returncode == 1 and found["finished"] and found["accurate"] is None
    assert list(found["steps"]) == ["facts", f"shape {SHAPE}"]  # only what is asked for
    assert f"{package} is not here" in "".join(found["steps"][found["failures"][-1]]["output"])
    assert (found["steps"]["facts"]["returncode"] == 0) == (package == "gliclass")


@pytest.mark.long
def test_a_case_that_fails_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Bench.row

    def failing(bench: Bench, case: Case, parts: tuple[str, ...]) -> dict[str, Any]:
        if case.name == "1x128":
            raise RuntimeError("an illegal access")
        return row(bench, case, parts)

    monkeypatch.setattr(Bench, "row", failing)
    monkeypatch.setattr(gpu_steps.peers, "available", dict)
    options = Namespace(shape=str(demo.PATH), device="cpu", dtype="float32", repeats=1)
    first, second, *_ = gpu_steps.shape(options)
    assert first["case"] == "1x128" and first["failed"] == "RuntimeError('an illegal access')"
    assert second["forward"]["gliclass-fast"]["median"] > 0 and "failed" not in second


@pytest.mark.slow
def test_a_step_that_raises_or_hangs_costs_nothing_else(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    measuring = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tools.supervise import append_row
append_row(Path({str(rows)!r}), {{"found": 1}})
open({str(rows)!r}, "a").write('{{"found": 2')
"""
    plan = [
        Phase("one", [python("raises", "print('so far'); raise ValueError('no')")], 60),
        Phase("two", [python("hangs", measuring + HANGS, seconds=10)], 60),
        Phase("three", [Step("absent", ["no-such-command"]), python("beside", "print('here')")], 60, True),
        Phase("four", [python("late", "print('never')")], 0.0),
        Phase("five", [python("last", measuring.replace("1}", "3}") + "print('done')")], 60),
    ]
    journal = Journal(tmp_path, benchmark="gpu_check")
    assert read(tmp_path)["steps"] == {}  # from the first moment
    follow(plan, journal, ROOT)
    steps = read(tmp_path)["steps"]
    assert steps["raises"]["problem"] == "exit status 1"
    assert steps["raises"]["output"][0] == "so far" and "ValueError: no" in steps["raises"]["output"][-1]
    assert steps["hangs"]["problem"] == "killed after 10 s" and steps["hangs"]["returncode"] is None
    assert not alive(int(steps["hangs"]["output"][-1].split()[1]))
    assert "no-such-command" in steps["absent"]["problem"] and steps["beside"]["output"] == ["here"]
    assert steps["late"]["problem"] == "no time was left" and steps["last"]["output"] == ["done"]
    assert journal.result["failures"] == ["raises", "hangs", "absent", "late"]
    # what the killed step found without its half line, after which another line begins
    assert read(tmp_path)["rows"] == [{"found": 1}, {"found": 3}]


def test_a_killed_check_leaves_what_it_found(tmp_path: Path) -> None:
    started = tmp_path / "started"
    hangs = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tools.supervise import Journal, Phase, Step, follow
codes = {{"first": "print(1)", "second": {hangs!r}}}
steps = [Step(name, [sys.executable, "-c", code]) for name, code in codes.items()]
follow([Phase("both", steps, 600)], Journal(Path({str(tmp_path)!r})), Path("."))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    step = wait_for_step(process, started)
    process.kill()
    process.wait()
    os.kill(step, signal.SIGKILL)
    found = read(tmp_path)
    assert found["steps"]["first"]["output"] == ["1"] and not found["finished"]


def test_a_check_that_is_asked_to_end_ends_its_step(tmp_path: Path) -> None:
    started = tmp_path / "started"
    code = f"""
import signal, sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tools.supervise import Journal, Phase, Step, follow
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
hangs = "import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
steps = [Step(name, [sys.executable, "-c", hangs]) for name in ("first", "second")]
follow([Phase("both", steps, 600)], Journal(Path({str(tmp_path)!r})), Path("."))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    step = wait_for_step(process, started)
    process.terminate()
    assert process.wait(30) == 9
    assert not alive(step)
    assert list(read(tmp_path)["steps"]) == ["first"]


def test_rows_of_many_processes_stay_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in range(3):
        append_row(journal.rows_file, {"number": number})
    journal.write()
    assert read(tmp_path)["rows"] == [{"number": 0}, {"number": 1}, {"number": 2}]
