"""Writes the README's tables from bench/results/*.json, between their markers.

    python -m bench.report [--check]

--check changes nothing and exits with 1 where the README does not match the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"


def cpu_table(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "transformers", "gliclass")
    )
    lines = [
        f"{machine['processor']}, {machine['threads']} threads; {versions}.",
        "",
        "| shape | batch | forward, ms: reference | engine | | pipeline, ms: reference | engine | |"
        " logit error |",
        "|---|---|---|---|---|---|---|---|---|",
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


def rendered(readme: str) -> str:
    """The README with every table made from its result file."""
    table = cpu_table(json.loads((RESULTS / "cpu.json").read_text(encoding="utf-8")))
    begin, end = "<!-- cpu table: begin -->", "<!-- cpu table: end -->"
    before, rest = readme.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    readme = README.read_text(encoding="utf-8")
    wanted = rendered(readme)
    if "--check" in sys.argv:
        sys.exit(
            0 if wanted == readme else "README.md does not match bench/results: run python -m bench.report"
        )
    README.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
