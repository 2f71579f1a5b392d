"""The command line: gliclass-fast classify | info | check | bench."""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import transformers
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gliclass_fast import demo, records, selfcheck, support
from gliclass_fast.adapters import adapter_place
from gliclass_fast.bench.command import bench
from gliclass_fast.folders import read_json, resolve_folder
from gliclass_fast.model import GLiClassModel, head_width, read_config
from gliclass_fast.ops import IMPLEMENTATIONS, ORDER, choose_ops, compiled_kernels, unavailable_reason
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.version import __version__

app = typer.Typer(
    invoke_without_command=True, no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False, help=__doc__,
)  # fmt: skip
screen = Console()
errors = Console(stderr=True)

TEXTS_AT_A_TIME = 128
INTERRUPTED = 130
Device = Annotated[str, typer.Option(help="cuda or cpu; a GPU is used where there is one.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")
]
DEMO_MODEL = str(demo.PATH)


@app.callback()
def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def _fail(message: str, code: int = 2) -> NoReturn:
    errors.print("error:", message, style="bold red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _without_traceback(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistake ends with its message and exit code 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(
            handlers=[RichHandler(console=errors, show_path=False, show_time=False)], format="%(message)s"
        )
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # the reader of a pipe has had enough
            sys.stderr.close()
            raise typer.Exit(0) from None
        except (ValueError, TypeError, OSError, FloatingPointError, selfcheck.ReferenceMissingError) as error:
            _fail(str(error))

    return run


@app.command()
@_without_traceback
def classify(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            help="Texts, or one .txt/.csv/.jsonl/.parquet file; standard input (a text per line) if absent."
        ),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Labels, separated by commas.")] = None,
    labels_file: Annotated[
        Path | None, typer.Option(help="JSON file: a list of labels or nested objects.")
    ] = None,
    model: Model = DEMO_MODEL,
    threshold: Annotated[float, typer.Option(help="Lowest score that counts, 0 to 1.")] = 0.5,
    single: Annotated[
        bool, typer.Option("--single", help="One label per text: the best, scores sum to 1.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="Task description put before the text.")] = None,
    examples: Annotated[
        Path | None, typer.Option(help='JSON file: a list of {"text", "labels"} examples.')
    ] = None,
    column: Annotated[str, typer.Option(help="Column or key that holds the text of a file.")] = "text",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Result file: .jsonl, .csv or .parquet.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted --output, with the same options.")
    ] = False,
    labels_per_pass: Annotated[
        str | None,
        typer.Option(help="Score so many labels at a time, or 'auto'.", show_default="all at once"),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Window in tokens.")] = 1024,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens per batch.", show_default="by device")
    ] = None,
    table: Annotated[
        bool | None,
        typer.Option("--table/--json", help="Default: a table on a terminal, JSON lines in a pipe."),
    ] = None,
    device: Device = "cuda",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, float16 or bfloat16.", show_default="16 bit on a GPU, else float32"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="int8: faster on a CPU, and less exact; see `check --precision`.")
    ] = None,
) -> None:
    """Score texts against any labels."""
    given = _labels(labels, labels_file)
    shots = _json(examples) if examples else None
    passes: Any = labels_per_pass
    if passes is not None and passes.isdecimal():
        passes = int(passes)
    if resume and output is None:
        raise ValueError("--resume continues an --output file; give one")
    inputs = _texts(texts, column)
    if output is not None and texts and output.resolve() == Path(texts[0]).resolve():
        raise ValueError(f"--output {output} is the input file")
    loaded = GLiClassModel.from_pretrained(model, dtype, _usable(device), precision=precision)
    pipeline = ZeroShotClassificationPipeline(
        loaded, model, max_length=max_length, device=loaded.device, progress_bar=False,
        batch_tokens=batch_tokens, classification_type="single-label" if single else "multi-label",
    )  # fmt: skip

    def run(part: list[str]) -> Any:
        return pipeline(
            part, given, threshold=threshold, prompt=prompt, examples=shots, labels_per_pass=passes
        )

    if output is not None:
        options = {
            "labels": given, "model": model, "threshold": threshold, "single": single, "prompt": prompt,
            "examples": shots, "labels-per-pass": passes, "max-length": max_length, "precision": precision,
        }  # fmt: skip
        note = records.RunNote(output, options)
        if resume:
            note.check()
        _to_file(inputs, run, records.open_writer(output, resume), output, note)
    elif screen.is_terminal if table is None else table:
        _to_table(inputs, run)
    else:
        for start in range(0, len(inputs), TEXTS_AT_A_TIME):
            part = inputs[start : start + TEXTS_AT_A_TIME]
            for text, found in zip(part, run(part), strict=True):
                print(json.dumps({"text": text, "predictions": found}, ensure_ascii=False), flush=True)


def _labels(labels: str | None, labels_file: Path | None) -> Any:
    if (labels is None) == (labels_file is None):
        raise ValueError("give the labels either as --labels a,b,c or as --labels-file FILE.json")
    if labels_file is not None:
        return _json(labels_file)
    return [label.strip() for label in (labels or "").split(",") if label.strip()]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def _check_precision(model: str, precision: str, texts: Path | None, labels: str | None, column: str) -> None:
    rows = _texts([str(texts)], column) if texts else list(selfcheck.TEXTS)
    given = _labels(labels, None) if labels else list(selfcheck.LABELS)
    found = selfcheck.compare_precision(model, model, precision, rows, given)
    share = found.changed / found.pairs
    verdict = (
        f"{found.changed} of {found.pairs} decisions differ from float32 ({share:.2%}; "
        f"{selfcheck.ALLOWED_CHANGES:.0%} is allowed), largest score difference {found.error:.3f}"
    )
    if share > selfcheck.ALLOWED_CHANGES:
        _fail(f"{precision} is not good enough here: {verdict}", code=1)
    screen.print(f"{precision} holds on these texts: {verdict}", markup=False)


def _usable(device: str) -> str:
    """The device to use for --device: the CPU where no GPU is to be had."""
    if device.split(":")[0] not in ORDER:
        raise ValueError(f"unknown device {device!r}; choose one of: {', '.join(ORDER)}")
    return device if device == "cpu" or torch.cuda.is_available() else "cpu"


def _texts(texts: list[str] | None, column: str) -> list[str]:
    if not texts:
        if sys.stdin.isatty():
            raise ValueError("give texts or a file, or pipe texts into standard input, one per line")
        return [line.rstrip("\n") for line in sys.stdin]
    path = Path(texts[0])
    files = [
        text for text in texts if Path(text).suffix.lower() in records.INPUT_SUFFIXES and Path(text).exists()
    ]
    if len(texts) > 1 and files:
        raise ValueError(f"{files[0]} is a file: give one file, or texts only")
    looks_like_a_file = path.exists() or not any(letter.isspace() for letter in texts[0])
    if len(texts) == 1 and path.suffix.lower() in records.INPUT_SUFFIXES and looks_like_a_file:
        return records.read_texts(path, column)
    return texts


def _to_table(inputs: list[str], run: Callable[[list[str]], Any]) -> None:
    table = Table("text", "labels", show_lines=True)
    for text, found in zip(inputs, run(inputs), strict=True):
        ranked = sorted(found, key=lambda each: -each["score"])
        lines = [f"{each['score']:.2f}  {each['label']}" for each in ranked]
        table.add_row(text, "\n".join(lines) or "-")
    screen.print(table, markup=False)


def _to_file(
    inputs: list[str],
    run: Callable[[list[str]], Any],
    writer: records.ResultWriter,
    output: Path,
    note: records.RunNote,
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done = len(writer.kept)
    if writer.kept != inputs[:done]:
        raise ValueError(
            f"{output} holds results of other texts; --resume continues a run over the same ones"
        )
    try:
        with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
            bar = progress.add_task("classifying", total=len(inputs), completed=done)
            for start in range(done, len(inputs), TEXTS_AT_A_TIME):
                part = inputs[start : start + TEXTS_AT_A_TIME]
                found = run(part)
                # not before: a mistake in the arguments must not cost an earlier result
                note.write()
                writer.start()
                for text, predictions in zip(part, found, strict=True):
                    writer.write(text, predictions)
                    done += 1
                progress.advance(bar, len(part))
            writer.start()
            note.remove()
    except KeyboardInterrupt:
        _fail(
            f"interrupted after {done} of {len(inputs)} texts; add --resume to continue {output}", INTERRUPTED
        )
    finally:
        writer.close()


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
    kind = torch.device(_usable(device)).type
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
    width = None if model is None else head_width(read_config(read_json(resolve_folder(model))).encoder)
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
    precision: Annotated[
        str | None,
        typer.Option(help="int8: compare the checkpoint in int8 with itself in float32, on the CPU."),
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="With --precision: a .txt/.csv/.jsonl/.parquet file of texts.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="With --precision: labels, separated by commas.")] = None,
    column: Annotated[str, typer.Option(help="Column or key that holds the text of a file.")] = "text",
) -> None:
    """Load a checkpoint in float32, print its configuration, compare its scores with the reference's."""
    if precision is not None:
        _check_precision(model, precision, texts, labels, column)
        return
    if texts or labels:
        raise ValueError("--texts and --labels go with --precision")
    loaded = GLiClassModel.from_pretrained(model, dtype="float32", device=_usable(device))
    pipeline = ZeroShotClassificationPipeline(loaded, model, device=loaded.device, progress_bar=False)
    table = Table("option", "value", title=model)
    adapter = adapter_place(resolve_folder(model))
    row = support.row_of(loaded) | ({} if adapter is None else {"adapter": f"LoRA, merged, of {adapter}"})
    for key, value in row.items():
        table.add_row(key, value, style="bold")
    for key, value in asdict(loaded.config).items():
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
        _fail(f"does not match the reference: {verdict}", code=1)
    screen.print(f"matches the reference: {verdict}", markup=False)
