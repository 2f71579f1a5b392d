"""The batch command: files of texts become a folder of results, on this machine or on a cluster of Ray."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from gliclass_fast.cli import console
from gliclass_fast.cli.lock import check_place
from gliclass_fast.cli.options import labels_of, reading_of
from gliclass_fast.cli.rows import TEXT_COLUMN

FOUND_COLUMNS = ("row_id", "file", "row", "text", "labels", "scores", "tokens_cut", "error")


def batch(
    source: Annotated[
        Path,
        Argument(metavar="INPUT", help="A file, or a folder of files of one kind, as classify reads."),
    ],
    output: Annotated[Path, Option("--output", "-o", help="Folder for the results, as .parquet files.")],
    labels: console.Labels = None,
    labels_file: console.LabelsFile = None,
    model: console.Model = console.DEMO_MODEL,
    single: console.Single = False,
    threshold: console.Threshold = 0.5,
    top_k: console.TopK = None,
    prompt: console.Prompt = None,
    column: console.Column = TEXT_COLUMN,
    keep: console.Keep = None,
    encoding: console.Encoding = None,
    delimiter: console.Delimiter = None,
    resume: Annotated[bool, Option("--resume", help="Continue the killed job of this --output.")] = False,
    no_text: console.NoText = False,
    max_length: console.MaxLength = 1024,
    batch_tokens: console.BatchTokens = None,
    block_rows: Annotated[
        int, Option(help="Rows per file of results, which is what a kill may cost an actor.", min=1)
    ] = 128,
    address: Annotated[
        str | None,
        Option(help="Of a cluster of Ray: auto, or host:port.", show_default="this machine alone"),
    ] = None,
    concurrency: Annotated[
        int | None, Option(help="Actors that score.", show_default="as many as fit", min=1)
    ] = None,
    num_cpus: Annotated[int, Option(help="CPUs, and threads, of an actor.", min=1)] = 1,
    num_gpus: Annotated[
        float | None,
        Option(help="GPUs of an actor, as 1 or 0.5.", show_default="1 where there are any", min=0),
    ] = None,
    device: console.Device = None,
    dtype: console.Dtype = None,
    quantization: console.Quantization = None,
) -> None:
    """Score files of texts in several processes or machines; a killed job goes on where it was."""
    console.check_device(device)
    on_cpu = device is not None and device.startswith("cpu")
    if num_gpus and on_cpu:
        raise ValueError(f"--num-gpus {num_gpus:g} goes with --device cuda, not with {device}")
    given = labels_of(labels, labels_file)
    reading = reading_of(column, keep, encoding, delimiter)
    if taken := [name for name in reading.keep if name in FOUND_COLUMNS]:
        raise ValueError(f"--keep: results have a column {taken[0]!r} of their own")
    if not output.name or output.name == "..":
        output = output.resolve()  # what stands beside a folder is named after it
    check_place(output)
    if output.resolve().is_relative_to(os.path.realpath(source)):
        raise ValueError(f"--output {output} is the input, or lies in it")

    console.let_threads_sleep()  # those of a local cluster's workers too
    from gliclass_fast.cli.batch_run import BatchRun

    model = str(Path(model).resolve()) if Path(model).is_dir() else model  # workers have folders of their own
    options = {
        "model": model, "labels": given, "top_k": top_k, "max_length": max_length, "device": device,
        "batch_tokens": batch_tokens, "dtype": dtype, "quantization": quantization,
        "classification_type": "single-label" if single else "multi-label",
        "call": {"threshold": threshold, "prompt": prompt},
    }  # fmt: skip
    cluster = {
        "address": address, "count": concurrency, "cpus": num_cpus,
        "gpus": 0.0 if on_cpu else num_gpus,
    }  # fmt: skip
    BatchRun(source, output, reading, options, cluster, block_rows, text=not no_text).run(resume)
