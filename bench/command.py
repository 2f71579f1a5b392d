"""gliclass-fast bench: the command measures the engine and its peers on this machine."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gliclass_fast.bench import cases
from gliclass_fast.bench.measurements import MEASUREMENTS, Measurement, Options
from gliclass_fast.bench.presets import PRESETS, Preset
from gliclass_fast.bench.screen import progress, screen, show
from gliclass_fast.bench.tables import CASE_COLUMNS, case_rows, grid_table, machine_line

if TYPE_CHECKING:
    import torch  # which takes seconds, and the command line imports this file for its help

DTYPES = {"cpu": "float32", "cuda": "float16"}
KNOWN: dict[str, Preset | Measurement] = {**PRESETS, **MEASUREMENTS}
PRESET_HELP = "; ".join(f"{name}: {each.about}" for name, each in KNOWN.items())


def _option(text: str, default: str | bool = True, **settings: Any) -> Any:
    return typer.Option(help=text, show_default=default, **settings)


def bench(
    preset: Annotated[str, _option(f"{PRESET_HELP}.")] = "quick",
    model: Annotated[
        str | None,
        _option(
            "Checkpoints, or stock shapes with random weights, separated by commas. Shapes: "
            f"{', '.join(cases.SHAPES)}.",
            "deberta-v3-base; for quality the demo checkpoint",
        ),
    ] = None,
    peer_names: Annotated[
        str | None,
        typer.Option(
            "--peers", help="Names, separated by commas; or 'all', or 'none'.", show_default="by preset"
        ),
    ] = None,
    dtype: Annotated[str | None, _option("float32, float16 or bfloat16.", "by device")] = None,
    device: Annotated[str | None, _option("cuda or cpu.", "a GPU where there is one")] = None,
    threads: Annotated[int | None, _option("Of the CPU.", "torch's", min=1)] = None,
    repeats: Annotated[int | None, _option("Timed runs.", "by preset", min=1)] = None,
    data: Annotated[
        Path | None, _option("Folder of labelled sentences, for --preset quality.", exists=True)
    ] = None,
    rows: Annotated[int | None, _option("Texts per set of --preset quality.", "all", min=1)] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="Write the result to a file.", dir_okay=False, writable=True),
    ] = None,
    report: Annotated[
        Path | None,
        _option("Folder for report.html and the plots as PNG and SVG.", file_okay=False, writable=True),
    ] = None,
) -> None:
    """Measure the engine and other engines on this machine, in one process."""
    if preset not in KNOWN:
        raise ValueError(f"preset {preset!r} does not exist; choose one of: {', '.join(KNOWN)}")
    chosen = KNOWN[preset]
    given = {
        "--model": model, "--peers": peer_names, "--dtype": dtype, "--threads": threads,
        "--repeats": repeats, "--data": data, "--rows": rows, "--report": report,
    }  # fmt: skip
    for option, value in given.items():
        if value is not None and option not in chosen.options:
            raise ValueError(f"--preset {preset} has no use for {option}")
    if json_file and not json_file.parent.is_dir():  # before it takes minutes
        raise ValueError(f"--json: there is no folder {json_file.parent}")
    if importlib.util.find_spec("gliclass") is None:
        raise ValueError("the reference package is not installed: pip install 'gliclass-fast[bench]'")
    device = _device(device, chosen.devices, preset)
    import torch
    from transformers.utils import logging

    from gliclass_fast.bench.timing import machine

    logging.set_verbosity_error()  # the reference loads models in ways that transformers warns of
    if threads is not None:
        torch.set_num_threads(threads)
    result: dict[str, Any] = {"benchmark": preset, "machine": machine(device), "device": device}
    precision = _dtype(dtype, device)
    if report:
        report.mkdir(parents=True, exist_ok=True)  # which may fail
    if isinstance(chosen, Preset):
        models = ("deberta-v3-base" if model is None else model).split(",")
        names = _chosen(peer_names, chosen)
        result |= _compare(chosen, models, names, precision, device, repeats)
    else:
        own = chosen.model if model is None else model, repeats or chosen.repeats
        result |= chosen.measure(Options(*own, device, precision, data, rows))
    if json_file:
        json_file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if report:
        _report(result, report)


def _device(name: str | None, devices: tuple[str, ...], preset: str) -> str:
    """Returns the device of a name, or the first of those of a preset that this machine has."""
    if name not in (None, "cpu", "cuda"):
        raise ValueError(f"device {name!r}: choose cpu or cuda")
    if name is None:
        from gliclass_fast.runtime.device import resolve_device

        name = resolve_device().type if len(devices) > 1 else devices[0]
    if name not in devices:
        raise ValueError(f"--preset {preset} is for {' and '.join(devices)} alone, not for {name}")
    return name


def _dtype(name: str | None, device: str) -> torch.dtype:
    name = name or DTYPES[device]
    if name not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"dtype {name!r}: choose float32, float16 or bfloat16")
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _chosen(names: str | None, preset: Preset) -> list[str]:
    from gliclass_fast.bench import peers

    known = peers.available()
    if names in (None, "none", "all"):
        return list({None: preset.peers, "none": (), "all": known}[names])
    parts, found = [part.strip() for part in str(names).split(",")], []
    while parts:  # a name may hold a comma, so the longest that fits is taken
        sizes = range(len(parts), 0, -1)
        size = next((size for size in sizes if ", ".join(parts[:size]) in known), None)
        if size is None:
            raise ValueError(f"unknown peer {parts[0]!r}; known: {', '.join(map(repr, known))}")
        found.append(", ".join(parts[:size]))
        del parts[:size]
    return found


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
    with progress(len(models) * (1 + len(names) + count)) as step:
        for model in models:
            measured = Bench(model, device, dtype, repeats or preset.repeats, step)
            result["runs"].append(measured.measure(choose, preset.parts, names))
    screen.print(machine_line(machine(device)), highlight=False)
    for run in result["runs"]:
        for part in preset.parts:
            if preset.by_label_count:
                show(*grid_table(run, part), title=f"{part}: texts per second by number of labels")
            else:
                show(CASE_COLUMNS, case_rows(run, part), title=f"{run['shape']}, {run['dtype']}: {part}")
        for name, reason in run["absent"].items():
            screen.print(f"{name}: {reason}", highlight=False, markup=False)
    return result


def _report(result: dict[str, Any], folder: Path) -> None:
    from gliclass_fast.bench import page, plots

    page.write(result, plots.draw(result, folder), folder / "report.html")
    screen.print(f"wrote {folder / 'report.html'}", highlight=False, markup=False)
