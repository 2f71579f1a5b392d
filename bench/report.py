"""Writes the tables of the README and of the demo's card from bench/results/*.json, between their markers.

python -m gliclass_fast.bench.report
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gliclass_fast.bench.tables import grid_table, machine_line, markdown, ratio_table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"


def compared(result: dict[str, Any]) -> str:
    """Times of a preset that has no grid, part by part, and the largest error of the engine."""
    tables = [f"{part}:\n\n{markdown(*ratio_table(result, part))}" for part in result["parts"]]
    errors = (row["errors"]["gliclass-fast"] for run in result["runs"] for row in run["rows"])
    tables.append(f"Largest error of a float32 logit: {max(errors):.0e}.")
    return "\n\n".join([machine_line(result["machine"]), *tables])


def grids(result: dict[str, Any]) -> str:
    tables = [markdown(*grid_table(run, part)) for run in result["runs"] for part in result["parts"]]
    return "\n\n".join([machine_line(result["machine"]), *tables])


def started(result: dict[str, Any]) -> str:
    columns = ["engine", *next(iter(result["engines"].values()))]
    rows = [[name, *(f"{value:g}" for value in each.values())] for name, each in result["engines"].items()]
    return f"{machine_line(result['machine'])} Model: {result['model']}.\n\n{markdown(columns, rows)}"


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


# page -> result file -> renderer; the place is between <!-- FILE: begin --> and <!-- FILE: end -->
PAGES: dict[Path, dict[str, Callable[[Any], str]]] = {
    ROOT / "README.md": {
        "cpu.json": compared,
        "card-cpu.json": grids,
        "paper-cpu.json": grids,
        "cold-start-cpu.json": started,
        "quality-cpu.json": decided,
    },
    ROOT / "gliclass_fast" / "demo" / "README.md": {"demo.json": accuracies},
}


def rendered(page: Path) -> str:
    """The page with its tables made from their result files."""
    text = page.read_text(encoding="utf-8")
    for file, render in PAGES[page].items():
        begin, end = f"<!-- {file}: begin -->", f"<!-- {file}: end -->"
        table = render(json.loads((RESULTS / file).read_text(encoding="utf-8")))
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
