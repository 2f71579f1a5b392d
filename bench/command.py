"""gliclass-fast bench: the command measures the engine and its peers on this machine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gliclass_fast.bench import cases
from gliclass_fast.bench.presets import PRESETS, Preset
from gliclass_fast.bench.tables import (
    CASE_COLUMNS,
    case_rows,
    grid_table,
    machine_line,
    serving_tables,
    thread_table,
)
from gliclass_fast.demo import PATH

if TYPE_CHECKING:
    import torch  # which takes seconds, and the command line imports this file for its help

screen = Console()
if not screen.is_terminal:
    screen.width = 120
DEMO = str(PATH)
OTHERS = {
    "ops": "every implementation of the operations that take the time",
    "cold-start": "from nothing to a first result, and peak memory",
    "memory": "what a process grows by that meets texts of many lengths, on the CPU",
    "threads": "what a second thread gains, and what a busy neighbour costs, on the CPU",
    "refresh": "what it costs to follow a model in training, on the CPU",
    "families": "every kind of checkpoint beside its reference, at stock shapes on the CPU",
    "adapters": "32 texts with 8 and 64 LoRA adapters beside the model alone, on the CPU",
    "streaming": "chunks of streams beside the reference, on the CPU",
    "serving": "a server under load beside the library and the reference's deployment, on the CPU",
    "quality": "decisions on labelled sentences in every precision (needs --data)",
}
DTYPES = {"cpu": "float32", "cuda": "float16"}
PRESET_HELP = "; ".join(
    f"{name}: {about}" for name, about in [*((n, p.about) for n, p in PRESETS.items()), *OTHERS.items()]
)


def _option(text: str, default: str | bool = True, **settings: Any) -> Any:
    return typer.Option(help=text, show_default=default, **settings)


def bench(
    preset: Annotated[str, _option(f"{PRESET_HELP}.")] = "quick",
    model: Annotated[
        str | None,
        _option(
            f"Checkpoints, or stock shapes with random weights ({', '.join(cases.SHAPES)}).",
            "deberta-v3-base; for quality the demo checkpoint",
        ),
    ] = None,
    peer_names: Annotated[
        str | None, typer.Option("--peers", help="Names, 'all' or 'none'.", show_default="by preset")
    ] = None,
    dtype: Annotated[str | None, _option("float32, float16 or bfloat16.", "by device")] = None,
    device: Annotated[str | None, _option("cuda or cpu.", "a GPU where there is one")] = None,
    threads: Annotated[int | None, _option("Of the CPU.", "torch's")] = None,
    repeats: Annotated[int | None, _option("Timed runs.", "by preset", min=1)] = None,
    data: Annotated[Path | None, _option("Folder of labelled sentences, for --preset quality.")] = None,
    rows: Annotated[int | None, _option("Texts per set of --preset quality.", "all", min=1)] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to a file.")] = None,
    report: Annotated[Path | None, _option("Folder for report.html and the plots as PNG and SVG.")] = None,
) -> None:
    """Measure the engine and other engines on this machine, in one process."""
    if importlib.util.find_spec("gliclass") is None:
        raise ValueError("the reference package is not installed: pip install 'gliclass-fast[bench]'")
    if device not in (None, "cpu", "cuda"):
        raise ValueError(f"device {device!r}: choose cpu or cuda")
    import torch

    from gliclass_fast.bench.timing import machine
    from gliclass_fast.runtime.device import resolve_device

    device = device or resolve_device().type
    if threads is not None:
        torch.set_num_threads(threads)
    if preset not in PRESETS and preset not in OTHERS:
        raise ValueError(f"preset {preset!r} does not exist; choose one of: {', '.join([*PRESETS, *OTHERS])}")
    models = (model or (DEMO if preset == "quality" else "deberta-v3-base")).split(",")
    result: dict[str, Any] = {"benchmark": preset, "machine": machine(device), "device": device}
    if preset in PRESETS:
        names, precision = _chosen(peer_names, PRESETS[preset]), _dtype(dtype, device)
        result |= _compare(PRESETS[preset], models, names, precision, device, repeats)
    elif preset == "ops":
        from gliclass_fast.bench.bench_ops import measure

        result["rows"] = list(measure(device, _dtype(dtype, device), repeats or 9))
    elif preset == "families":
        result["rows"] = _families(repeats or 5)
    elif preset == "adapters":
        result["rows"] = _adapters(repeats or 5)
    elif preset == "streaming":
        result |= _streaming(repeats or 7)
    elif preset == "serving":
        result |= _serving(repeats or 5)
    elif preset == "cold-start":
        result |= {"model": models[0], "engines": _cold_start(models[0], device, repeats or 4)}
    elif preset == "memory":
        result |= _memory(repeats or 9)
    elif preset == "threads":
        result |= {"model": models[0], "rows": _threads(models[0], repeats or 15)}
    elif preset == "refresh":
        result |= {"model": models[0], "steps": _refresh(models[0], repeats or 8)}
    else:
        result |= {"model": Path(models[0]).name, "rows": _quality(data, models[0], device, rows)}
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if report:
        _report(result, report)


def _dtype(name: str | None, device: str) -> torch.dtype:
    name = name or DTYPES[device]
    if name not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"dtype {name!r}: choose float32, float16 or bfloat16")
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _cold_start(model: str, device: str, repeats: int) -> dict[str, dict[str, float]]:
    from gliclass_fast.bench import cold_start

    with Console(stderr=True).status("starting engines in processes of their own"):
        found = cold_start.measure(model, device, repeats)
    steps = list(next(iter(found.values())))
    _print(["engine", *steps], [[name, *map(str, each.values())] for name, each in found.items()], model)
    return found


def _memory(repeats: int) -> dict[str, Any]:
    from gliclass_fast.bench import memory

    with _progress(len(memory.ENGINES) * len(memory.CALLERS) + 1) as step:
        found = memory.measure(step=step)
        step("what it costs")
        times = memory.cost(repeats)
    _print(list(found[0]), [[str(value) for value in row.values()] for row in found])
    _print(list(times), [[str(each["median"]) for each in times.values()]], "50 calls, ms")
    return {"rows": found, "times": times}


def _threads(model: str, repeats: int) -> list[dict[str, Any]]:
    from gliclass_fast.bench import threads

    with _progress(1 + len(threads.CASES)) as step:
        found = threads.measure(model, repeats, step)
    _print(*thread_table(found), model)
    return found


def _refresh(model: str, repeats: int) -> dict[str, float]:
    from gliclass_fast.bench import refresh

    found = refresh.measure(model, repeats)
    _print(list(found), [[str(each) for each in found.values()]], model)
    return found


def _families(repeats: int) -> list[dict[str, Any]]:
    from gliclass_fast.bench import families

    with _progress(len(families.FAMILIES)) as step:
        found = list(families.measure(list(families.FAMILIES), repeats, step))
    medians = [
        [f"{row['times'][name]['median']:.0f}" for name in ("gliclass", "gliclass-fast")] for row in found
    ]
    rows = [
        [row["family"], row["shape"], *times, f"{row['error']:.0e}"]
        for row, times in zip(found, medians, strict=True)
    ]
    _print(["family", "shape", "reference, ms", "gliclass-fast, ms", "logit error"], rows)
    return found


def _adapters(repeats: int) -> list[dict[str, Any]]:
    from gliclass_fast.bench import adapters

    with _progress(1 + len(adapters.COUNTS)) as step:
        found = list(adapters.measure(repeats, step))
    columns = list(found[0]["times"])
    times = [
        [f"{row['times'][name]['median']:.0f}" if name in row["times"] else "" for name in columns]
        for row in found
    ]
    rows = [[str(row["adapters"]), *each] for row, each in zip(found, times, strict=True)]
    columns.insert(0, "adapters")
    _print(columns, rows, adapters.SHAPE)
    return found


def _streaming(repeats: int) -> dict[str, Any]:
    from gliclass_fast.bench import streaming

    with _progress(len(streaming.SESSIONS)) as step:
        found = list(streaming.measure(repeats, step))
        growth = streaming.growth(repeats)
    rows = [
        [
            str(row["sessions"]),
            str(row["held_tokens"]),
            *(f"{t['median']:.0f}" for t in row["times"].values()),
        ]
        for row in found
    ]
    _print(["sessions", "tokens held", *(f"{name}, ms" for name in found[0]["times"])], rows, streaming.SHAPE)
    return {"rows": found, "growth": growth}


def _serving(repeats: int) -> dict[str, Any]:
    from gliclass_fast.bench import serving

    with _progress(None) as step:
        found = serving.measure(repeats, step)
    for columns, rows in serving_tables(found):
        _print(columns, rows)
    for fault in found["faults"]:
        screen.print(fault, highlight=False, markup=False)
    return found


def _chosen(names: str | None, preset: Preset) -> list[str]:
    from gliclass_fast.bench import peers

    known = peers.available()
    if names in (None, "none", "all"):
        return list({None: preset.peers, "none": (), "all": known}[names])
    found = [name.strip() for name in str(names).split(",")]
    if unknown := set(found) - set(known):
        raise ValueError(f"unknown peers {sorted(unknown)}; known: {', '.join(known)}")
    return found


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[str], None]]:
    """Shows a bar with the time left; a call with the name of the next step moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=total)
        first = True

        def step(name: str) -> None:
            nonlocal first
            bar.update(task, description=name, advance=0 if first else 1)
            first = False

        yield step


def _compare(
    preset: Preset, models: list[str], names: list[str], dtype: torch.dtype, device: str, repeats: int | None
) -> dict[str, Any]:
    from gliclass_fast.bench.run import Bench
    from gliclass_fast.bench.timing import machine

    choose = partial(preset.cases, device)
    count = len(choose(cases.demo_tokenizer()))
    result: dict[str, Any] = {
        "parts": list(preset.parts),
        "by_label_count": preset.by_label_count,
        "runs": [],
    }
    with _progress(len(models) * (1 + len(names) + count)) as step:
        for model in models:
            measured = Bench(model, device, dtype, repeats or preset.repeats, step)
            result["runs"].append(measured.measure(choose, preset.parts, names))
    screen.print(machine_line(machine(device)), highlight=False)
    for run in result["runs"]:
        for part in preset.parts:
            if preset.by_label_count:
                _print(*grid_table(run, part), title=f"{part}: texts per second by number of labels")
            else:
                _print(CASE_COLUMNS, case_rows(run, part), title=f"{run['shape']}, {run['dtype']}: {part}")
        for name, reason in run["absent"].items():
            screen.print(f"{name}: {reason}", highlight=False, markup=False)
    return result


def _quality(data: Path | None, model: str, device: str, rows: int | None) -> list[dict[str, Any]]:
    from gliclass_fast.bench import quality

    if data is None:
        raise ValueError(f"--data FOLDER is needed; {str(quality.__doc__).splitlines()[-1]}")
    if model in cases.SHAPES:
        raise ValueError(f"{model} has random weights, which decide nothing; give a checkpoint")
    with _progress(len(quality.SETS) * (1 + len(quality.precisions(device)))) as step:
        found = list(quality.measure(data, model, device, rows, step))
    columns = list(found[0])
    _print(columns, [[_short(row[key]) for key in columns] for row in found])
    return found


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) and value < 0.5 else str(value)


def _print(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    screen.print(table)


def _report(result: dict[str, Any], folder: Path) -> None:
    from gliclass_fast.bench import page, plots

    if "runs" not in result:
        raise ValueError(f"--report is for presets with timings: {', '.join(PRESETS)}")
    folder.mkdir(parents=True, exist_ok=True)
    page.write(result, plots.draw(result, folder), folder / "report.html")
    screen.print(f"wrote {folder / 'report.html'}", highlight=False)
