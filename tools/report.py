"""The tables of README, docs and the demo's card: this writes them from bench/results/*.json between markers.

python -m tools.report
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gliclass_fast.bench.tables import (
    grid_table,
    machine_line,
    markdown,
    ratio_table,
    rounding_error_table,
    serving_tables,
    thread_table,
)
from gliclass_fast.cli import catalogue
from gliclass_fast.ops import IMPLEMENTATIONS, ORDER, PAGE_ROWS
from tools import reliability_page

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


SUMMARY_BATCHES = ("1x128", "8 of 40-128")
PEERS = sorted(RESULTS.glob("peers-*.json"))  # one per kind of CPU
KINDS = ("intel-avx512vnni", "amd-avx512vnni")  # of CPUs, whose results stand side by side


def summary(_: Any) -> str:
    """Renders four rows of every kind of CPU: both shapes on one text and on a ragged batch."""
    results = {file: json.loads(file.read_text(encoding="utf-8")) for file in PEERS}
    rows: list[dict[str, str]] = []
    for file, result in results.items():
        columns, found = ratio_table(result, "forward")
        chosen = (dict(zip(columns, row, strict=True)) for row in sorted(found) if row[1] in SUMMARY_BATCHES)
        rows += [{"CPU": file.stem.removeprefix("peers-"), **row} for row in chosen]
    widest: dict[str, str] = max(rows, key=lambda row: len(row))  # not every kind of CPU has every engine
    columns = list(widest)
    machines = "; ".join(_in_short(file, result["machine"]) for file, result in results.items())
    return f"{markdown(columns, [[row.get(each, '') for each in columns] for row in rows])}\n\n{machines}."


def _in_short(file: Path, machine: dict[str, Any]) -> str:
    """Names the machine of a kind of CPU, which the file is named after, and the commit that was measured."""
    where = f"{machine['processor']}, {machine['threads']} threads"
    return f"{file.stem.removeprefix('peers-')}: {where}, commit {machine['commit'][:12]}"


def compared(result: dict[str, Any]) -> str:
    """Renders the times of a preset that has no grid, part by part, and the largest error of the engine."""
    tables = [f"{part}:\n\n{markdown(*ratio_table(result, part))}" for part in result["parts"]]
    errors = (row["errors"]["gliclass-fast"] for run in result["runs"] for row in run["rows"])
    tables.append(f"Largest error of a float32 logit: {max(errors):.0e}.")
    columns, rows = rounding_error_table(result)
    tables.append(f"Largest errors of logits of engines that round:\n\n{markdown(columns, rows)}")
    return "\n\n".join([machine_line(result["machine"]), *tables])


def grids(result: dict[str, Any]) -> str:
    tables, repeats = [], set()
    for run in result["runs"]:
        for part in result["parts"]:
            tables.append(markdown(*grid_table(run, part)))
            repeats |= {times["runs"] for row in run["rows"] for times in row[part].values()}
    counts = " or ".join(map(str, sorted(repeats)))
    return "\n\n".join([f"{machine_line(result['machine'])} Medians of {counts} runs.", *tables])


def started(result: dict[str, Any]) -> str:
    columns = ["engine", *next(iter(result["engines"].values()))]
    rows = [[name, *(f"{value:g}" for value in each.values())] for name, each in result["engines"].items()]
    return f"{machine_line(result['machine'])} Model: {result['model']}.\n\n{markdown(columns, rows)}"


def followed(result: dict[str, Any]) -> str:
    steps = result["steps"]
    table = markdown(list(steps), [[f"{each:g}" for each in steps.values()]])
    return f"Medians on the CPU, model {result['model']}:\n\n{table}\n\n{machine_line(result['machine'])}"


def grown(result: dict[str, Any]) -> str:
    columns = ["engine", "calling threads", "calls", "after 20 calls, MiB", "grown by, MiB"]
    rows = [[str(row[column]) for column in columns] for row in result["rows"]]
    medians = {name: times["median"] for name, times in result["times"].items()}
    least = min(medians.values())
    cells = [f"{value:.0f} ({value / least:.2f}x)" for value in medians.values()]
    times = markdown([f"{name}, ms" for name in medians], [cells])
    return f"{machine_line(result['machine'])}\n\n{markdown(columns, rows)}\n\n{times}"


def decided(result: dict[str, Any]) -> str:
    columns = {
        "set": "set", "texts": "texts", "labels": "labels", "precision": "precision", "macro_f1": "macro F1",
        "reference_macro_f1": "reference's", "changed_best": "best label changed",
        "changed_multi": "decisions changed", "largest_score_difference": "largest score difference",
    }  # fmt: skip
    rows = [
        [f"{row[key]:.1g}" if "difference" in key else str(row[key]) for key in columns]
        for row in result["rows"]
    ]
    return f"{machine_line(result['machine'])}\n\n{markdown(list(columns.values()), rows)}"


def accuracies(result: list[dict[str, Any]]) -> str:
    rows = [
        [row["set"], f"{row['rows']:,}", ", ".join(row["labels"]), f"{row['accuracy']:.3f}"] for row in result
    ]
    return markdown(["set", "rows", "labels", "accuracy"], rows)


def runs(_: Any) -> str:
    """Renders what the package's folders hold."""
    texts, labels = catalogue.poolings()
    tables = [markdown(*catalogue.architectures()), markdown(*catalogue.backbones())]
    return "\n\n".join([*tables, f"Poolings: {texts}; of labels: {labels}."])


def operations(_: Any) -> str:
    """Renders the table of ops.py."""
    orders = [f"on {device}: {', '.join(order)}" for device, order in ORDER.items()]
    rows = []
    for name, backends in IMPLEMENTATIONS.items():
        file = next(iter(backends.values())).split(":")[0]
        rows.append([f"`{name}`", f"`kernels/{file}.py`", ", ".join(backends)])
    tables = markdown(["operation", "contract", "implementations"], rows)
    return f"{tables}\n\nOrder of preference {'; '.join(orders)}."


def families(result: dict[str, Any]) -> str:
    columns = ["family", "shape", "texts", "labels", "reference, ms", "gliclass-fast, ms", "logit error"]
    rows = []
    for row in result["rows"]:
        theirs, ours = (row["times"][name]["median"] for name in ("gliclass", "gliclass-fast"))
        shape = f"{row['shape']}, {row['about']}" if row["about"] else row["shape"]
        cells = [row["family"], shape, str(row["texts"]), str(row["labels"]), f"{theirs:.0f}"]
        rows.append([*cells, f"{ours:.0f} (**{theirs / ours:.2f}x**)", f"{row['error']:.0e}"])
    return f"{machine_line(result['machine'])}\n\n{markdown(columns, rows)}"


def streamed(result: dict[str, Any]) -> str:
    theirs, *ours = result["rows"][0]["times"]
    columns = ["sessions", "tokens held by each", *(f"{name}, ms" for name in (theirs, *ours))]
    rows = []
    for row in result["rows"]:
        medians = {name: times["median"] for name, times in row["times"].items()}
        cells = [str(row["sessions"]), f"{row['held_tokens']:,}", f"{medians[theirs]:.0f}"]
        rows.append(
            [*cells, *(f"{medians[name]:.0f} (**{medians[theirs] / medians[name]:.2f}x**)" for name in ours)]
        )
    # older results do not say how times grow
    grown = [_grown(*result["growth"])] if "growth" in result else []
    return "\n\n".join(
        [machine_line(result["machine"]), markdown(columns, rows), *grown, _held(result["rows"])]
    )


def _grown(first: dict[str, Any], last: dict[str, Any]) -> str:
    """Says how the time of a call grows with the tokens that a session holds."""
    more = {part: last[part]["median"] - first[part]["median"] for part in ("call", "attention")}
    return (
        f"A call of one session that holds {last['held_tokens']:,} tokens takes {more['call']:.0f} ms longer "
        f"than that of one that holds {first['held_tokens']:,}; its attention alone takes "
        f"{more['attention']:.0f} ms longer."
    )


def _held(rows: list[dict[str, Any]]) -> str:
    """Says what memory a token takes."""
    own = rows[0]["bytes_per_token"]
    pages, pool = (
        max(row[f"{part}_bytes_per_held_token"] for row in rows) / own for part in ("page", "pool")
    )
    return (
        f"Keys and values of a token are {own:,} bytes. The pages of these sessions, which fill them (a page "
        f"has {PAGE_ROWS} tokens), take at most {pages:.3f} times that per token held, and the pool with its "
        f"free pages at most {pool:.3f} times."
    )


# The table maps a time to the one that it is given as a multiple of.
MULTIPLE_OF = {
    "adapters, ms": "no adapters, ms",
    "int8, adapters, ms": "int8, no adapters, ms",
    "gliclass-fast, merged in turn, ms": "adapters, ms",
    "gliclass, merged in turn, ms": "adapters, ms",
    "gliclass with polylora, ms": "adapters, ms",
}


def mixed(result: dict[str, Any]) -> str:
    """Renders the times of calls with adapters, and without; the first row has all columns."""
    columns = list(result["rows"][0]["times"])
    rows = []
    for row in result["rows"]:
        medians = {name: times["median"] for name, times in row["times"].items()}
        cells = [f"{medians[name]:,.0f}" if name in medians else "" for name in columns]
        for n, name in enumerate(columns):
            if name in medians and name in MULTIPLE_OF:
                cells[n] += f" (**{medians[name] / medians[MULTIPLE_OF[name]]:.2f}x**)"
        rows.append([str(row["adapters"]), *cells])
    runs = min(times["runs"] for row in result["rows"] for times in row["times"].values())
    facts = f"{machine_line(result['machine'])} Medians; fewest runs of a figure: {runs}."
    table = f"{facts}\n\n{markdown(['adapters', *columns], rows)}"
    if not (errors := [row["polylora_error"] for row in result["rows"] if "polylora_error" in row]):
        return table
    return f"{table}\n\nWith polylora, a score is up to {max(errors):.2g} away from ours."


def served(result: dict[str, Any]) -> str:
    tables = [markdown(*table) for table in serving_tables(result)]
    return "\n\n".join([machine_line(result["machine"]), *tables])


def shared(result: dict[str, Any]) -> str:
    """Renders what threads gain and lose beside other processes."""
    rows = markdown(*thread_table(result["rows"]))
    return f"{machine_line(result['machine'])} Model: {result['model']}.\n\n{rows}"


def soaked(result: dict[str, Any]) -> str:
    columns = ("minutes", "clients", "requests", "right", "errors", "wrong", "killed", "grown")
    rows = [[form, *(f"{run[column]:,}" for column in columns)] for form, run in result.items()]
    machines = "\n".join(f"- {form}: {machine_line(run['machine'])}" for form, run in result.items())
    return f"{markdown(['form', *columns], rows)}\n\n{machines}"


# The table maps a page to its result files, or what else it shows, and their renderers. The place is between
# <!-- NAME: begin --> and <!-- NAME: end -->.
PAGES: dict[Path, dict[str, Callable[[Any], str]]] = {
    ROOT / "README.md": {"engines for CPUs": summary},
    ROOT / "docs" / "models.md": {"what it runs": runs},
    ROOT / "docs" / "kernels.md": {"operations": operations},
    ROOT / "docs" / "adapters.md": {f"adapters-{kind}.json": mixed for kind in KINDS},
    ROOT / "docs" / "live-models.md": {"refresh-cpu.json": followed},
    ROOT / "docs" / "benchmarks.md": {
        "memory-cpu.json": grown,
        "cpu.json": compared,
        **{file.name: compared for file in PEERS},
        "card-cpu.json": grids,
        "card-base-cpu.json": grids,
        "paper-cpu.json": grids,
        "paper-base-cpu.json": grids,
        "cold-start-cpu.json": started,
        "families-cpu.json": families,
        **{f"streaming-{kind}.json": streamed for kind in KINDS},
        "threads-cpu.json": shared,
        "serving-cpu.json": served,
        "serving-soak-cpu.json": soaked,
        "quality-cpu.json": decided,
    },
    ROOT / "docs" / "reliability.md": {"reliability-cpu.json": reliability_page.render},
    ROOT / "gliclass_fast" / "demo" / "README.md": {"demo.json": accuracies},
}


def rendered(page: Path) -> str:
    """Returns the page with its tables made from their result files."""
    text = page.read_text(encoding="utf-8")
    for name, render in PAGES[page].items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        file = RESULTS / name
        table = render(json.loads(file.read_text(encoding="utf-8")) if file.suffix == ".json" else None)
        pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
        text, places = re.subn(pattern, lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)  # noqa: B023
        if places != 1:
            raise ValueError(f"{page.name}: {begin} and {end} stand there {places} times")
    return text


def main() -> None:
    for page in PAGES:
        page.write_text(rendered(page), encoding="utf-8")


if __name__ == "__main__":
    main()
