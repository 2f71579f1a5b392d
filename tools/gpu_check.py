"""Everything that only a GPU shows: one command builds, sanitizes, tests, times and writes one JSON.

    python tools/gpu_check.py --output FOLDER [--wheels FOLDER] [--minutes M] [--only STEP,...]
                              [--shapes a,b] [--dtypes a,b] [--repeats N]

FOLDER/gpu_check.json exists from the first second and is written again after every step; whatever is
measured is appended to FOLDER/rows.jsonl at once. A later call writes over both. The plan takes M minutes, 8
by default. A step that fails, hangs or finds no time is a failure there, and the next ones run. It needs
torch, transformers, nvcc, a C++ compiler, pybind11; --wheels names a folder of wheels (gliclass, the peers,
and pytest where it is absent) to install first, for machines without a network.

The longest tests come last, and may find no time. The last line of a call names what failed; another call
runs that alone, and each step then has all of M minutes:

    python tools/gpu_check.py --output OTHER --minutes 4 --only test_parity,test_kernels

It needs the extension, so where a machine is new, --only names `build` first (and `wheels`, with --wheels).
`--only sweep` times other block sizes of the Triton kernels beside the chosen ones; the plan leaves it out.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT))  # A script has its own folder there.
from tools.supervise import Journal, Phase, Step, follow  # noqa: E402

SHAPES = "deberta-v3-base,modernbert-base,ettin-32m,bert-base,mdeberta-v3-base"
MINUTES = 8.0
A_SHAPE = 35.0  # seconds that one shape may take
TILES = 20.0  # seconds that `tiles` may take, so that `operations` has as many
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def plan(options: argparse.Namespace, folder: Path) -> list[Phase]:
    """Returns phases in order, each with the second by which it must be over, or what --only names."""
    minute = 60 * options.minutes / MINUTES
    on_gpu = options.device == "cuda"
    coming = options.wheels is not None and any(options.wheels.glob("pytest_xdist-*.whl"))
    workers = ["-n", "4"] if on_gpu and (coming or find_spec("xdist")) else []

    def measure(what: str, *more: str) -> list[str]:
        command = [sys.executable, "-m", "tools.gpu_steps", what]
        command += ["--rows", str(folder / "rows.jsonl"), "--device", options.device]
        return [*command, "--repeats", str(options.repeats), *more]

    def of_shapes(what: str, seconds: float = float("inf")) -> list[Step]:
        shapes = [
            (shape, dtype) for dtype in options.dtypes.split(",") for shape in options.shapes.split(",")
        ]
        return [
            Step(f"{what} {shape} {dtype}", measure(what, "--shape", shape, "--dtype", dtype), seconds)
            for shape, dtype in shapes
        ]

    def tests(name: str, *more: str) -> Step:
        return Step(name, [*PYTEST, f"tests/gpu/{name}.py", f"--junitxml={folder / name}.xml", *more])

    check = [*(_sanitizers() if on_gpu else []), tests("test_compiled"), tests("test_graphs")]
    rest = [  # The shortest come first, so that the fewest are left where the time ends.
        tests(name, *workers) for name in ("test_streaming", "test_overflow", "test_parity", "test_kernels")
    ]
    operations = [
        Step("ceilings", measure("ceilings")),
        Step("tiles", measure("tiles"), TILES * options.minutes / MINUTES),
        Step("operations", measure("operations")),
    ]
    phases = [
        Phase("install", [_install(options.wheels)] if options.wheels else [], 0.6 * minute),
        Phase("machine", [Step("facts", measure("facts"))], 0.8 * minute),
        Phase("build", [_build()] if on_gpu else [], 1.7 * minute),
        Phase("prepare", of_shapes("warm"), 2.3 * minute, side_by_side=True),
        Phase("check", check, 3.3 * minute, side_by_side=True),
        Phase("shapes", of_shapes("shape", A_SHAPE * options.minutes / MINUTES), 6.2 * minute),
        Phase("operations", operations, 7 * minute),
        Phase("rest", rest, MINUTES * minute),
    ]
    if options.only is None:
        return phases
    phases.append(Phase("extra", [Step("sweep", measure("sweep"))], MINUTES * minute))
    return _only(phases, {name.strip() for name in options.only.split(",")}, MINUTES * minute)


def _only(phases: list[Phase], wanted: set[str], seconds: float) -> list[Phase]:
    """Returns the steps named by their phase, their name or its first word; each may take all the time.

    Raises ValueError for an unknown name.
    """
    known: set[str] = set()
    chosen = []
    for phase in phases:
        steps = []
        for step in phase.steps:
            names = {phase.name, step.name, step.name.split()[0]}
            known |= names
            if wanted & names:
                steps.append(replace(step, seconds=float("inf")))
        chosen.append(Phase(phase.name, steps, seconds, phase.side_by_side))
    if unknown := wanted - known:
        raise ValueError(
            f"--only: no step is {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}"
        )
    return [phase for phase in chosen if phase.steps]


def _install(wheels: Path) -> Step:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    return Step("wheels", [*command, *sorted(map(str, wheels.resolve().glob("*.whl")))])


def _build() -> Step:
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return Step("build", command, environment={"GLICLASS_FAST_BUILD": "cuda"})


def _sanitizers() -> list[Step]:
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    contracts = [*PYTEST, "-k", "contract and ragged", "tests/gpu/test_compiled.py"]
    # Each tensor gets memory of its own, or memcheck could not see a kernel run over its end.
    apart = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return [
        Step(name, [tool, "--tool", name, "--error-exitcode", "1", *contracts], environment=apart)
        for name in ("memcheck", "racecheck")
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Follows the plan; returns 0 where every step passed and the engine was right in every row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--dtypes", default="float16", help="the others are in the tests")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--only", help="steps or phases, separated by commas")
    parser.add_argument("--device", default="cuda", help="cpu tries the plan out")
    options = parser.parse_args(arguments)
    folder = options.output.resolve()
    try:
        phases = plan(options, folder)
    except ValueError as error:
        parser.error(str(error))
    facts = {"started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "options": vars(options)}
    journal = Journal(folder, benchmark="gpu_check", **facts)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # It ends the running step.
    follow(phases, journal, ROOT)
    rows = journal.result["rows"]
    ours = "gliclass-fast"  # and, by a longer name, without graphs
    wrong = [
        row
        for row in rows
        if "failed" in row or any(name.startswith(ours) for name in row.get("left_out", {}))
    ]
    judged = any(row["step"] == "shape" and "errors" in row for row in rows)
    journal.result |= {"finished": True, "accurate": not wrong if judged else None}
    journal.write()
    print("failed steps:", ", ".join(journal.result["failures"]) or "none")
    return int(bool(journal.result["failures"] or wrong))


if __name__ == "__main__":
    sys.exit(main())
