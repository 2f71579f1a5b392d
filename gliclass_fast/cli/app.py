"""The command line: gliclass-fast classify | info | check | bench."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.logging import RichHandler
from rich.table import Table

from gliclass_fast import __version__, selfcheck
from gliclass_fast.bench.command import bench
from gliclass_fast.checkpoint.files import read_json, resolve_folder
from gliclass_fast.checkpoint.lora import adapter_place
from gliclass_fast.cli import files
from gliclass_fast.cli.classify import classify, labels_of
from gliclass_fast.cli.console import DEMO_MODEL, Device, errors, fail, screen, usable
from gliclass_fast.models.configuration import read_config
from gliclass_fast.ops import IMPLEMENTATIONS, ORDER, choose_ops, compiled_kernels, unavailable_reason
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.runtime.model import GLiClassModel

app = typer.Typer(
    invoke_without_command=True, no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, help=__doc__,
)  # fmt: skip


@app.callback()
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _without_traceback(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command that ends a user's mistake with its message and exit code 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(
            handlers=[RichHandler(console=errors, show_path=False, show_time=False)], format="%(message)s"
        )
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # the reader of a pipe has ended
            sys.stderr.close()
            raise typer.Exit(0) from None
        except (ValueError, TypeError, OSError, FloatingPointError, selfcheck.ReferenceMissingError) as error:
            fail(str(error))

    return run


def _check_quantized(
    model: str, quantization: str, texts: Path | None, labels: str | None, column: str
) -> None:
    rows = files.read_texts(texts, column) if texts else list(selfcheck.TEXTS)
    given = labels_of(labels, None) if labels else list(selfcheck.LABELS)
    found = selfcheck.compare_quantized(model, model, quantization, rows, given)
    share = found.changed / found.pairs
    verdict = (
        f"{found.changed} of {found.pairs} decisions differ from float32 ({share:.2%}; "
        f"{selfcheck.ALLOWED_CHANGES:.0%} is allowed), largest score difference {found.error:.3f}"
    )
    if share > selfcheck.ALLOWED_CHANGES:
        fail(f"{quantization} is not good enough here: {verdict}", code=1)
    screen.print(f"{quantization} holds on these texts: {verdict}", markup=False)


app.command()(_without_traceback(classify))
app.command()(_without_traceback(bench))


@app.command()
@_without_traceback
def info(
    device: Device = "cuda",
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, as some kernels are for heads of one width.")
    ] = None,
) -> None:
    """Versions, device, and which implementation of every operation runs and why."""
    kind = usable(device).type
    name = torch.cuda.get_device_name() if kind == "cuda" else platform.processor() or platform.machine()
    facts = Table(show_header=False)
    versions = {
        "gliclass-fast": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    for key, value in {**versions, "python": platform.python_version(), "device": f"{kind} ({name})"}.items():
        facts.add_row(key, value)
    facts.add_row("threads", str(torch.get_num_threads()))
    for part, description in compiled_kernels().items():
        facts.add_row(f"compiled for {part}", description)
    screen.print(facts)
    table = Table(
        "operation",
        "runs",
        "why",
        title=f"operations on {kind}; order of preference: {', '.join(ORDER[kind])}",
    )
    dtype = torch.float16 if kind == "cuda" else torch.float32
    width = (
        None if model is None else read_config(read_json(resolve_folder(model))).backbone_config.head_width
    )
    for operation, chosen in choose_ops(kind, dtype, head_width=width).chosen.items():
        passed_over = ORDER[kind][: ORDER[kind].index(chosen)]
        reasons = [
            f"{backend}: {unavailable_reason(backend, kind, dtype, width)}"
            for backend in passed_over
            if backend in IMPLEMENTATIONS[operation]
        ]
        table.add_row(operation, chosen, "; ".join(reasons) or "first choice")
    screen.print(table)


@app.command()
@_without_traceback
def check(
    model: Annotated[
        str, typer.Argument(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")
    ] = DEMO_MODEL,
    device: Device = "cuda",
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            "--precision",
            help="int8: compare the checkpoint in int8 with itself in float32, on the CPU.",
        ),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="With --quantization: a .txt/.csv/.jsonl/.parquet file of texts.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="With --quantization: labels, separated by commas.")
    ] = None,
    column: Annotated[str, typer.Option(help="Column or key that holds the text of a file.")] = "text",
) -> None:
    """Load a checkpoint in float32, print its configuration, compare its scores with the reference's."""
    if quantization is not None:
        _check_quantized(model, quantization, texts, labels, column)
        return
    if texts or labels:
        raise ValueError("--texts and --labels go with --quantization")
    loaded = GLiClassModel.from_pretrained(model, dtype="float32", device=usable(device))
    pipeline = ZeroShotClassificationPipeline(loaded, model, device=loaded.device, progress_bar=False)
    table = Table("option", "value", title=model)
    adapter = adapter_place(resolve_folder(model))
    row: dict[str, str] = loaded.loaded.network.description()
    if adapter is not None:
        row["adapter"] = f"LoRA, merged, of {adapter}"
    for key, value in row.items():
        table.add_row(key, value, style="bold")
    for key, value in asdict(loaded.loaded.config).items():
        rows = {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        for name, each in rows.items():
            table.add_row(name, str(each))
    screen.print(table)
    try:
        found = selfcheck.compare_with_reference(pipeline, model)
    except selfcheck.ReferenceMissingError as error:
        screen.print(f"loads; not compared: {error}", markup=False)
        return
    verdict = f"largest logit error {found.error:.1e}, {found.changed} of {found.pairs} decisions differ"
    if not found.error <= selfcheck.ALLOWED_ERROR or found.changed:
        fail(f"does not match the reference: {verdict}", code=1)
    screen.print(f"matches the reference: {verdict}", markup=False)
