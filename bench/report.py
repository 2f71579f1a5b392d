"""Writes the tables of the README and of the demo's card from bench/results/*.json, between their markers.

python -m bench.report
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def cpu_table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "gliclass")
    )
    lines = [
        f"{machine['processor']}, {machine['threads']} threads; {versions}.",
        "",
        "| shape | batch | forward, ms: reference | engine | | int8 | | pipeline, ms: reference | engine | |"
        " int8 | | logit error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for shape in result["shapes"]:
        for row in shape["cases"]:
            parts = [
                cell
                for part in ("forward", "pipeline")
                for cell in (
                    f"{row[part]['reference']['median']:.0f}",
                    f"{row[part]['engine']['median']:.0f}",
                    f"**{row[part]['speedup']:.2f}x**",
                    f"{row[part]['int8']['median']:.0f}",
                    f"**{row[part]['int8_speedup']:.2f}x**",
                )
            ]
            cells = [shape["shape"], row["case"], *parts, f"{row['logit_error']:.0e}"]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Peak memory of loading and one batch of 8x256, MiB: "]
    peaks = []
    for shape in result["shapes"]:
        memory = shape["peak_memory_mib"]
        peaks.append(f"{shape['shape']} {memory['engine']} (reference {memory['reference']})")
    lines[-1] += "; ".join(peaks) + "."
    return "\n".join(lines)


def demo_table(results: list[dict[str, Any]]) -> str:
    lines = ["| set | rows | labels | accuracy |", "|---|---|---|---|"]
    for row in results:
        lines.append(
            f"| {row['set']} | {row['rows']:,} | {', '.join(row['labels'])} | {row['accuracy']:.3f} |"
        )
    return "\n".join(lines)


# page -> (name of the table, result file, renderer)
PAGES: dict[Path, tuple[str, str, Callable[[Any], str]]] = {
    ROOT / "README.md": ("cpu table", "cpu.json", cpu_table),
    ROOT / "gliclass_fast" / "demo" / "README.md": ("demo table", "demo.json", demo_table),
}


def rendered(page: Path) -> str:
    """The page with its table made from its result file."""
    name, file, render = PAGES[page]
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    table = render(json.loads((RESULTS / file).read_text(encoding="utf-8")))
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    for page in PAGES:
        page.write_text(rendered(page), encoding="utf-8")


if __name__ == "__main__":
    main()
