"""Results as PNG and SVG: they show speed-ups, time against length and throughput against labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gliclass_fast.bench.tables import REFERENCE, grid_mean, names_in, speedup

SIZE = (8, 4.5)  # inches


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Writes NAME.png and NAME.svg for every picture a result has the numbers for; returns the SVG files."""
    import matplotlib

    matplotlib.use("Agg")  # It opens no window.
    matplotlib.rcParams["svg.hashsalt"] = "gliclass-fast"  # The same result gives the same file.
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in _figures(result):
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=150)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        written.append(folder / f"{name}.svg")
    return written


def _figures(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    part = result["parts"][0]
    if result["by_label_count"]:
        for run in result["runs"]:
            yield f"labels-{run['shape']}", _by_labels(run, part)
    else:
        yield "speedup", _bars(result, part)
    if any(len({row["tokens"] for row in run["rows"] if row["texts"] == 1}) > 2 for run in result["runs"]):
        yield "length", _by_length(result, part)


def _axes(title: str, x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _bars(result: dict[str, Any], part: str) -> Any:
    figure, axes = _axes(f"{part}, times as fast as {REFERENCE}", "", "speed-up")
    rows = [(run["shape"], row) for run in result["runs"] for row in run["rows"]]
    names = [name for name in names_in(result, part) if name != REFERENCE]
    width = 0.8 / max(len(names), 1)
    for number, name in enumerate(names):
        heights = [speedup(row, part, name) or 0 for _, row in rows]
        axes.bar([place + number * width for place in range(len(rows))], heights, width, label=name)
    axes.axhline(1, color="black", linewidth=1)
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(rows))])
    axes.set_xticklabels([f"{shape}\n{row['case']}" for shape, row in rows], fontsize=7)
    axes.legend()
    return figure


def _by_labels(run: dict[str, Any], part: str) -> Any:
    figure, axes = _axes(f"{run['shape']}, {part}", "labels", "texts per second")
    counts = sorted({row["labels"] for row in run["rows"]})
    for name in dict.fromkeys(name for row in run["rows"] for name in row[part]):
        means = {n: grid_mean([r for r in run["rows"] if r["labels"] == n], part, name) for n in counts}
        known = {count: mean for count, mean in means.items() if mean is not None}
        axes.plot(list(known), list(known.values()), marker="o", label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend()
    return figure


def _by_length(result: dict[str, Any], part: str) -> Any:
    figure, axes = _axes(f"{part}, one text", "tokens", "milliseconds")
    for run in result["runs"]:
        for name in names_in(result, part):
            points = sorted(
                (row["tokens"], row[part][name]["median"])
                for row in run["rows"]
                if row["texts"] == 1 and name in row[part]
            )
            label = f"{run['shape']}: {name}" if len(result["runs"]) > 1 else name
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.legend()
    return figure
