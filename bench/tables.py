"""Results as tables: they show speed-ups over the reference package and grids of samples per second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

REFERENCE = "gliclass"
ROUNDED = (", int8", ", bfloat16")  # the ends of names of what rounds on purpose


def names_in(result: dict[str, Any], part: str) -> list[str]:
    """Returns the contenders that have a time somewhere, in the order they took part."""
    return list(dict.fromkeys(name for run in result["runs"] for row in run["rows"] for name in row[part]))


CASE_COLUMNS = ["batch", "engine", "ms", "p80", "p99", "speed-up", "texts/s", "logit error"]


def case_rows(run: dict[str, Any], part: str) -> list[list[str]]:
    """Returns milliseconds of every contender on every case of a run, and the ratio to the reference's."""
    return [
        [row["case"], name, *_cells(row, part, name)]
        for row in run["rows"]
        for name in dict.fromkeys([*row[part], *row["left_out"]])
    ]


def _cells(row: dict[str, Any], part: str, name: str) -> list[str]:
    error = f"{row['errors'][name]:.0e}" if name in row["errors"] else ""
    if name not in row[part]:
        return [row["left_out"][name], "", "", "", "", error]
    times, ratio = row[part][name], speedup(row, part, name)
    rate = row["texts"] / times["median"] * 1e3
    shown = "" if ratio is None else f"{ratio:.2f}x"
    p99 = f"{times['p99']:.1f}" if times["runs"] >= 100 else ""  # Among fewer runs it is the slowest.
    return [f"{times['median']:.1f}", f"{times['p80']:.1f}", p99, shown, f"{rate:.1f}", error]


def speedup(row: dict[str, Any], part: str, name: str) -> float | None:
    """Returns how many times faster than the reference a contender is, or None where either has no time."""
    times = row[part]
    if name not in times or REFERENCE not in times:
        return None
    ratio: float = times[REFERENCE]["median"] / times[name]["median"]
    return ratio


def samples_per_second(row: dict[str, Any], part: str, name: str) -> float | None:
    times = row[part].get(name)
    return None if times is None else row["texts"] / times["median"] * 1e3


def grid_table(run: dict[str, Any], part: str) -> tuple[list[str], list[list[str]]]:
    """Returns (columns, rows): samples per second by number of labels, the mean over the lengths of text.

    A mean needs every length: where a contender was left out of one, there is none.
    """
    counts = sorted({row["labels"] for row in run["rows"]})
    names = list(dict.fromkeys(name for row in run["rows"] for name in row[part]))
    rows = []
    for name in names:
        means = [grid_mean([r for r in run["rows"] if r["labels"] == count], part, name) for count in counts]
        known = [mean for mean in means if mean is not None]
        average = f"{sum(known) / len(known):.1f}" if len(known) == len(counts) else "-"
        rows.append([name, *("-" if mean is None else f"{mean:.1f}" for mean in means), average])
    return [run["shape"], *map(str, counts), "mean"], rows


def grid_mean(rows: Sequence[dict[str, Any]], part: str, name: str) -> float | None:
    rates = [rate for row in rows if (rate := samples_per_second(row, part, name)) is not None]
    return sum(rates) / len(rates) if len(rates) == len(rows) else None


def ratio_table(result: dict[str, Any], part: str) -> tuple[list[str], list[list[str]]]:
    """Returns (columns, rows): per case, every contender's milliseconds and how many times as fast it is."""
    names = [name for name in names_in(result, part) if name != REFERENCE]
    rows = []
    for run in result["runs"]:
        for row in run["rows"]:
            cells = [run["shape"], row["case"]]
            for name in (REFERENCE, *names):
                ratio = speedup(row, part, name)
                bold = "" if ratio is None or name == REFERENCE else f" (**{ratio:.2f}x**)"
                cells.append(f"{row[part][name]['median']:.0f}{bold}" if name in row[part] else "")
            rows.append(cells)
    return ["shape", "batch", *(f"{name}, ms" for name in (REFERENCE, *names))], rows


def rounding_error_table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns (columns, rows): per case, the largest error of a logit of every contender that rounds."""
    cases = [(run["shape"], row) for run in result["runs"] for row in run["rows"]]
    names = list(dict.fromkeys(name for _, row in cases for name in row["errors"] if name.endswith(ROUNDED)))
    rows = []
    for shape, row in cases:
        errors = (row["errors"].get(name) for name in names)
        rows.append([shape, row["case"], *("" if error is None else f"{error:.4f}" for error in errors)])
    return ["shape", "batch", *names], rows


def serving_tables(result: dict[str, Any]) -> list[tuple[list[str], list[list[str]]]]:
    """Returns (columns, rows) of a server's figures with their bars, and of every contender's medians."""
    figures = []
    for row in result["figures"]:
        bar = f"{'<=' if row['at_most'] else '>='} {row['bar']:g}"
        found = f"{row['value']:.3g}" if row["met"] else f"{row['value']:.3g}, missed"
        figures.append([row["figure"], bar, found, f"{min(row['rounds']):.3g} to {max(row['rounds']):.3g}"])
    contenders = result["contenders"]
    columns = list(dict.fromkeys(key for each in contenders.values() for key in each))
    loads = [
        [name, *(f"{each[key]:g}" if each.get(key) else "" for key in columns)]
        for name, each in contenders.items()
    ]
    return [(["figure", "bar", "found", "rounds"], figures), (["contender", *columns], loads)]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    # older results do not name the instructions
    instructions = f" ({machine['instructions']})" if machine.get("instructions") else ""
    device = machine.get("gpu") or f"{machine['processor']}{instructions}, {machine['threads']} threads"
    commit = f"; commit {machine['commit']}" if machine["commit"] else ""  # an installed package has none
    return f"{device}; {versions}{commit}."


def thread_table(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Renders `--preset threads`: what two threads gain over one, and how much a busy neighbour costs."""
    one, two, beside = list(rows[0]["times"])
    cells = []
    for row in rows:
        medians = {condition: times["median"] for condition, times in row["times"].items()}
        first = gained = ""
        if one in medians:
            first, gained = f"{medians[one]:.0f}", f" ({medians[one] / medians[two]:.2f}x)"
        longer = f"{medians[beside]:.0f} ({medians[beside] / medians[two]:.2f} times as long)"
        cells.append([row["case"], row["engine"], first, f"{medians[two]:.0f}{gained}", longer])
    return ["case", "engine", one, two, beside], cells
