"""The command line: gliclass-fast classify | batch | serve | info | check | bench.

A command imports torch where it runs, so that help, the version and a mistake show at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from gliclass_fast import __version__
from gliclass_fast.bench.command import bench
from gliclass_fast.cli import console
from gliclass_fast.cli.batch import batch
from gliclass_fast.cli.command import Command
from gliclass_fast.cli.options import classify
from gliclass_fast.cli.rows import TEXT_COLUMN
from gliclass_fast.cli.serve import REFERENCE_OPTIONS, serve

app = typer.Typer(
    invoke_without_command=True, no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, context_settings={"help_option_names": ["--help", "-h"]},
    help="The command line: gliclass-fast classify | batch | serve | info | check | bench.",
)  # fmt: skip


@app.callback()
@console.without_traceback
def _version(
    version: Annotated[bool, Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__, flush=True)
        raise typer.Exit


app.command(cls=Command)(console.without_traceback(classify))
app.command(cls=Command)(console.without_traceback(batch))
app.command(cls=Command, context_settings=REFERENCE_OPTIONS)(console.without_traceback(serve))
app.command(cls=Command)(console.without_traceback(bench))


@app.command(cls=Command)
@console.without_traceback
def info(
    device: console.Device = None,
    model: Annotated[
        str | None, Option(help="A checkpoint, as some kernels are for heads of one width.")
    ] = None,
) -> None:
    """Versions, device, and which implementation of every operation runs and why."""
    from gliclass_fast.cli import information

    information.info(device, model)


@app.command(cls=Command)
@console.without_traceback
def check(
    model: Annotated[
        str, Argument(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")
    ] = console.DEMO_MODEL,
    device: console.Device = None,
    quantization: Annotated[
        str | None,
        Option(
            "--quantization",
            "--precision",
            help="int8: compare the checkpoint in int8 with itself in float32, on the CPU.",
        ),
    ] = None,
    texts: Annotated[
        Path | None, Option(help="With --quantization: a file of texts, as classify reads.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        Option(help="With --quantization: labels, separated by commas; may be given several times."),
    ] = None,
    column: console.Column = TEXT_COLUMN,
) -> None:
    """Load a checkpoint in float32, print its configuration, compare its scores with the reference's."""
    if quantization is None and (texts is not None or labels):
        raise ValueError("--texts and --labels go with --quantization")
    if texts is None and column != TEXT_COLUMN:
        raise ValueError("--column names a column of --texts FILE; give that as well")
    console.check_device(device)
    from gliclass_fast.cli import checking

    if quantization is None:
        checking.check_with_reference(model, device)
    else:
        checking.check_quantized(model, quantization, texts, labels, column)
