"""The presets that measure one thing each, such as memory or a server: what it is, and its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gliclass_fast.bench import cases
from gliclass_fast.bench.screen import progress, screen, show
from gliclass_fast.bench.tables import serving_tables, thread_table
from gliclass_fast.demo import PATH

if TYPE_CHECKING:
    import torch  # which takes seconds, and the command line imports this file for its help


@dataclass(frozen=True, slots=True)
class Options:
    """Holds what the command line asks for."""

    model: str
    repeats: int
    device: str
    dtype: torch.dtype
    data: Path | None = None  # of --preset quality, as are the rows
    rows: int | None = None


def _ops(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench.operations import measure

    return {"rows": list(measure(options.device, options.dtype, options.repeats))}


def _cold_start(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import cold_start

    with progress(None) as step:
        step("starting engines in processes of their own")
        found = cold_start.measure(options.model, options.device, options.repeats)
    steps = list(next(iter(found.values())))
    rows = [[name, *map(str, each.values())] for name, each in found.items()]
    show(["engine", *steps], rows, options.model)
    return {"model": options.model, "engines": found}


def _memory(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import memory

    with progress(len(memory.ENGINES) * len(memory.CALLERS) + 1) as step:
        found = memory.measure(step=step)
        step("what it costs")
        times = memory.cost(options.repeats)
    show(list(found[0]), [[str(value) for value in row.values()] for row in found])
    show(list(times), [[str(each["median"]) for each in times.values()]], "50 calls, ms")
    return {"rows": found, "times": times}


def _threads(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import threads

    with progress(1 + len(threads.CASES)) as step:
        found = threads.measure(options.model, options.repeats, step)
    show(*thread_table(found), options.model)
    return {"model": options.model, "rows": found}


def _refresh(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import refresh

    found = refresh.measure(options.model, options.repeats)
    show(list(found), [[str(each) for each in found.values()]], options.model)
    return {"model": options.model, "steps": found}


def _families(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import families

    with progress(len(families.FAMILIES)) as step:
        found = list(families.measure(list(families.FAMILIES), options.repeats, step))
    medians = [
        [f"{row['times'][name]['median']:.0f}" for name in ("gliclass", "gliclass-fast")] for row in found
    ]
    rows = [
        [row["family"], row["shape"], *times, f"{row['error']:.0e}"]
        for row, times in zip(found, medians, strict=True)
    ]
    show(["family", "shape", "reference, ms", "gliclass-fast, ms", "logit error"], rows)
    return {"rows": found}


def _adapters(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import adapters

    with progress(1 + len(adapters.COUNTS)) as step:
        found = list(adapters.measure(options.repeats, step))
    columns = list(found[0]["times"])
    times = [
        [f"{row['times'][name]['median']:.0f}" if name in row["times"] else "" for name in columns]
        for row in found
    ]
    rows = [[str(row["adapters"]), *each] for row, each in zip(found, times, strict=True)]
    columns.insert(0, "adapters")
    show(columns, rows, adapters.SHAPE)
    return {"rows": found}


def _streaming(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import streaming

    with progress(len(streaming.SESSIONS)) as step:
        found = list(streaming.measure(options.repeats, step))
        growth = streaming.growth(options.repeats)
    rows = [
        [
            str(row["sessions"]),
            str(row["held_tokens"]),
            *(f"{t['median']:.0f}" for t in row["times"].values()),
        ]
        for row in found
    ]
    show(["sessions", "tokens held", *(f"{name}, ms" for name in found[0]["times"])], rows, streaming.SHAPE)
    return {"rows": found, "growth": growth}


def _serving(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import serving

    with progress(None) as step:
        found = serving.measure(options.repeats, step)
    for columns, rows in serving_tables(found):
        show(columns, rows)
    for fault in found["faults"]:
        screen.print(fault, highlight=False, markup=False)
    return found


def _quality(options: Options) -> dict[str, Any]:
    from gliclass_fast.bench import quality

    if options.data is None:
        raise ValueError(f"--data FOLDER is needed. {str(quality.__doc__).splitlines()[-1]}")
    if options.model in cases.SHAPES:
        raise ValueError(f"{options.model} has random weights, which decide nothing; give a checkpoint")
    with progress(len(quality.SETS) * (1 + len(quality.precisions(options.device)))) as step:
        found = list(quality.measure(options.data, options.model, options.device, options.rows, step))
    columns = list(found[0])
    show(columns, [[_short(row[key]) for key in columns] for row in found])
    return {"model": Path(options.model).name, "rows": found}


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) and value < 0.5 else str(value)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Says what a preset measures; an option of the command that is not in `options` would change nothing."""

    about: str
    measure: Callable[[Options], dict[str, Any]]
    repeats: int = 0
    options: tuple[str, ...] = ("--repeats",)
    devices: tuple[str, ...] = ("cpu",)
    model: str = "deberta-v3-base"


MEASUREMENTS = {
    "ops": Measurement(
        "every implementation of the operations that take the time",
        _ops, repeats=9, options=("--repeats", "--dtype", "--threads"), devices=("cpu", "cuda"),
    ),
    "cold-start": Measurement(
        "from nothing to a first result, and peak memory",
        _cold_start, repeats=4, options=("--repeats", "--model", "--threads"), devices=("cpu", "cuda"),
    ),
    "memory": Measurement(
        "what a process grows by that meets texts of many lengths, on the CPU", _memory, repeats=9
    ),
    "threads": Measurement(
        "what a second thread gains, and what a busy neighbour costs, on the CPU",
        _threads, repeats=15, options=("--repeats", "--model"),
    ),
    "refresh": Measurement(
        "what it costs to follow a model in training, on the CPU",
        _refresh, repeats=8, options=("--repeats", "--model", "--threads"),
    ),
    "families": Measurement(
        "every kind of checkpoint beside its reference, at stock shapes on the CPU",
        _families, repeats=5, options=("--repeats", "--threads"),
    ),
    "adapters": Measurement(
        "32 texts with 8 and 64 LoRA adapters beside the model alone, on the CPU",
        _adapters, repeats=5, options=("--repeats", "--threads"),
    ),
    "streaming": Measurement(
        "chunks of streams beside the reference, on the CPU",
        _streaming, repeats=7, options=("--repeats", "--threads"),
    ),
    "serving": Measurement(
        "a server under load beside the library and the reference's deployment, on the CPU",
        _serving, repeats=5,
    ),
    "quality": Measurement(
        "decisions on labelled sentences in every precision (needs --data)",
        _quality, options=("--model", "--threads", "--data", "--rows"), devices=("cpu", "cuda"),
        model=str(PATH),
    ),
}  # fmt: skip
