"""The tables of docs/reliability.md, from the sections that bench/results/reliability-cpu.json has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gliclass_fast.bench.tables import machine_line, markdown

Runs = list[dict[str, Any]]


def _fuzzed(counted: str, by: str, what: str) -> Callable[[Runs], str]:
    """Returns a renderer of the runs of a target: what was counted, in all and by kind, and the faults."""

    def render(runs: Runs) -> str:
        kinds = list(dict.fromkeys(kind for run in runs for kind in run[by]))
        rows = [[kind, f"{sum(run[by].get(kind, 0) for run in runs):,}"] for kind in kinds]
        total, faults = sum(run[counted] for run in runs), sum(len(run["faults"]) for run in runs)
        minutes = sum(run["seconds"] * run["processes"] for run in runs) / 60
        seeds = ", ".join(str(run["seed"]) for run in runs)
        line = f"{total:,} {what}, {faults} faults. Seeds {seeds}; {minutes:.0f} minutes of a core."
        return f"{line}\n\n{markdown([by.removeprefix('by_'), counted], rows)}"

    return render


def _stressed(runs: Runs) -> str:
    names = list(dict.fromkeys(row["scenario"] for run in runs for row in run["rows"]))
    rows = []
    for name in names:
        own = [row for run in runs for row in run["rows"] if row["scenario"] == name]
        faults = sum(row["fault"] is not None for row in own)
        cells = [
            sum(row["seconds"] for row in own),
            sum(row["answers"] for row in own),
            sum(r["wrong"] for r in own),
        ]
        rows.append([name, *(f"{each:,}" for each in cells), str(faults)])
    return markdown(["scenario", "seconds", "answers", "wrong", "hangs and errors"], rows)


def _columns(runs: Runs) -> str:
    names = [name for name in runs[0] if name != "machine"]
    return markdown(names, [[_shown(run[name]) for name in names] for run in runs])


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _invariant(runs: Runs) -> str:
    tables = []
    for part in ("models", "operations"):
        rows: Sequence[dict[str, Any]] = runs[-1][part]
        cells = [
            [f"{value:.1e}" if isinstance(value, float) else str(value) for value in row.values()]
            for row in rows
        ]
        tables.append(markdown(list(rows[0]), cells))
    return "\n\n".join(tables)


def _versions(runs: Runs) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.get("versions", ())))
    rows = []
    for run in runs:
        found = run.get("versions", {})
        tests = f"{run['passed']:,} passed, {len(run['failed'])} failed" if "passed" in run else "not run"
        rows.append([run["row"], *(found.get(name, "") for name in names), tests])
    return markdown(["row", *names, "core tests"], rows)


# section -> (heading, what the table shows, renderer)
SECTIONS: dict[str, tuple[str, str, Callable[[Runs], str]]] = {
    "fuzz pipelines": (
        "Random requests", "Calls of tiny models of every kind: documented errors alone, finite scores, and "
        "every text scores as it does alone.", _fuzzed("requests", "by_kind", "calls"),
    ),
    "fuzz files": (
        "Damaged files", "Whole files with bytes or values changed: they are read, or refused in a line.",
        _fuzzed("files", "by_file", "files"),
    ),
    "fuzz guided": (
        "Damaged files, led by coverage", "As above; atheris goes on with the files that reach new lines of "
        "a reader.", _fuzzed("files", "by_file", "files"),
    ),
    "fuzz kernels": (
        "Kernels", "The C++ kernels at random sizes, under AddressSanitizer and UndefinedBehaviorSanitizer, "
        "beside float64.", _fuzzed("cases", "by_kernel", "cases"),
    ),
    "fuzz guided-kernels": (
        "Kernels, led by coverage", "As above; libFuzzer draws the sizes, and goes on with those that reach "
        "new code of the kernels.", _fuzzed("cases", "by_kernel", "cases"),
    ),
    "stress": ("Threads and processes", "Every answer is checked.", _stressed),
    "memory, calls": ("Memory of very many calls", "The demo checkpoint, lengths at random.", _columns),
    "memory, sessions": (
        "Streams that last", "A tiny `decoder-kv` model; sessions come, go and wait, some calls fail, and "
        "every session is told again alone.", _columns,
    ),
    "memory, models": ("Memory of models that come and go", "The demo checkpoint, loaded.", _columns),
    "memory, loading": (
        "Memory while a checkpoint is loaded", "The peak until a first call ends, less what was held before. "
        "Weights are mapped from their file, and of an embedding table only rows in use are resident.",
        _columns,
    ),
    "batch invariance": (
        "Alone and in a batch", "float32: the largest difference over the largest value, or over 1; "
        "0 is bitwise the same.", _invariant,
    ),
    "versions": (
        "Versions", "The core tests, in a virtual environment per row. The newest transformers is 5.23 "
        "there: with 5.24 the reference's own `decoder-kv`, which tests compare with, fails.", _versions,
    ),
}  # fmt: skip


def render(result: dict[str, Any]) -> str:
    parts = []
    for name, (heading, about, table) in SECTIONS.items():
        if runs := result.get(name):
            last_of = {run["machine"]["processor"]: machine_line(run["machine"]) for run in runs}
            parts.append("\n\n".join([f"## {heading}", about, table(runs), *last_of.values()]))
    return "\n" + "\n\n".join(parts) + "\n"
