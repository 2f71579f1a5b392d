"""gliclass-fast classify: it scores labels for texts, from arguments or a file, on a screen or in a file."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from gliclass_fast.cli.console import DEMO_MODEL, Device, Model, errors, fail, screen, usable
from gliclass_fast.cli.files import INPUT_SUFFIXES, ResultWriter, RunNote, open_writer, read_texts
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text.prompts import flatten_labels

TEXTS_AT_A_TIME = 128
INTERRUPTED = 130


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
        bool, typer.Option("--resume", help="Continue an interrupted --output; --dtype may be another.")
    ] = False,
    labels_per_pass: Annotated[
        str | None,
        typer.Option(help="Score so many labels at a time, or 'auto'.", show_default="all at once"),
    ] = None,
    max_length: Annotated[int, typer.Option(help="Window in tokens.")] = 1024,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Tokens per batch.", show_default="by device")
    ] = None,
    warm_up: Annotated[
        str | None,
        typer.Option(help="Tokens of batches to record as CUDA graphs before the first text, as 128,1024."),
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
    quantization: Annotated[
        str | None,
        typer.Option(
            "--quantization",
            "--precision",
            help="int8: faster on a CPU, and less exact; see `check --quantization`.",
        ),
    ] = None,
) -> None:
    """Score texts against any labels."""
    given = labels_of(labels, labels_file)
    shots = _json(examples) if examples else None
    passes: Any = labels_per_pass
    if passes is not None and passes.isdecimal():
        passes = int(passes)
    sizes = warm_up.split(",") if warm_up else []
    if not all(size.isdecimal() for size in sizes):
        raise ValueError(f"--warm-up takes numbers of tokens, separated by commas, not {warm_up!r}")
    if resume and output is None:
        raise ValueError("--resume continues an --output file; give one")
    inputs = texts_of(texts, column)
    if output is not None:
        _check_output(output, texts, given)
    loaded = GLiClassModel.from_pretrained(model, dtype, usable(device), quantization=quantization)
    pipeline = ZeroShotClassificationPipeline(
        loaded, model, max_length=max_length, device=loaded.device, progress_bar=False,
        batch_tokens=batch_tokens, classification_type="single-label" if single else "multi-label",
        warm_up=[int(size) for size in sizes],
    )  # fmt: skip

    def run(part: list[str], first: int = 0) -> Any:
        return pipeline(
            part, given, threshold=threshold, prompt=prompt, examples=shots, labels_per_pass=passes,
            first_text=first,
        )  # fmt: skip

    if output is not None:
        options = {
            "labels": given, "model": model, "threshold": threshold, "single": single, "prompt": prompt,
            "examples": shots, "labels-per-pass": passes, "max-length": max_length,
            "quantization": quantization,
        }  # fmt: skip
        note = RunNote(output, options, str(loaded.dtype))
        note.check(resume)
        _to_file(inputs, run, open_writer(output, resume), output, note)
    elif screen.is_terminal if table is None else table:
        _to_table(inputs, run)
    else:
        for start in range(0, len(inputs), TEXTS_AT_A_TIME):
            part = inputs[start : start + TEXTS_AT_A_TIME]
            for text, found in zip(part, run(part, start), strict=True):
                print(json.dumps({"text": text, "predictions": found}, ensure_ascii=False), flush=True)


def labels_of(labels: str | None, labels_file: Path | None) -> Any:
    if (labels is None) == (labels_file is None):
        raise ValueError("give the labels either as --labels a,b,c or as --labels-file FILE.json")
    if labels_file is not None:
        given = _json(labels_file)
        if isinstance(given, list) and not all(isinstance(label, str) for label in given):
            raise ValueError(f"{labels_file} must hold a list of strings, or nested objects, for all texts")
        return given
    return [label.strip() for label in (labels or "").split(",") if label.strip()]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


def texts_of(texts: list[str] | None, column: str) -> list[str]:
    if not texts:
        if sys.stdin.isatty():
            raise ValueError("give texts or a file, or pipe texts into standard input, one per line")
        return [line.rstrip("\n") for line in sys.stdin]
    path = Path(texts[0])
    files = [text for text in texts if Path(text).suffix.lower() in INPUT_SUFFIXES and _is_file(Path(text))]
    if len(texts) > 1 and files:
        raise ValueError(f"{files[0]} is a file: give one file, or texts only")
    named_like_one = path.suffix.lower() in INPUT_SUFFIXES and len(texts[0].split()) == 1
    if len(texts) == 1 and (_is_file(path) or named_like_one):
        return read_texts(path, column)
    return texts


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text is no file name where it is too long or has a zero byte
        return False


def _check_output(output: Path, texts: list[str] | None, labels: Any) -> None:
    """Raises ValueError for what would only show after the work was done, or would spoil it."""
    if texts and output.resolve() == Path(texts[0]).resolve():
        raise ValueError(f"--output {output} is the input file")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")
    if output.suffix.lower() == ".csv" and any("|" in label for label in flatten_labels(labels)):
        raise ValueError("a label contains '|', which separates labels in .csv: write .jsonl or .parquet")


def _to_table(inputs: list[str], run: Callable[[list[str]], Any]) -> None:
    table = Table("text", "labels", show_lines=True)
    for text, found in zip(inputs, run(inputs), strict=True):
        ranked = sorted(found, key=lambda each: -each["score"])
        lines = [f"{each['score']:.2f}  {each['label']}" for each in ranked]
        table.add_row(text, "\n".join(lines) or "-")
    screen.print(table, markup=False)


def _to_file(
    inputs: list[str],
    run: Callable[[list[str], int], Any],
    writer: ResultWriter,
    output: Path,
    note: RunNote,
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    done = len(writer.kept)
    if writer.kept != inputs[:done]:
        raise ValueError(
            f"{output} holds results of other texts; --resume continues a run over the same ones"
        )
    for ending in {"SIGTERM", "SIGHUP"} & set(dir(signal)):  # as with ctrl-C, what there is gets written
        signal.signal(getattr(signal, ending), signal.default_int_handler)
    try:
        with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
            bar = progress.add_task("classifying", total=len(inputs), completed=done)
            for start in range(done, len(inputs), TEXTS_AT_A_TIME):
                part = inputs[start : start + TEXTS_AT_A_TIME]
                found = run(part, start)
                if start == len(writer.kept):  # not before, as a mistake must not cost an earlier result
                    note.write()
                    writer.start()
                for text, predictions in zip(part, found, strict=True):
                    writer.write(text, predictions)
                    done += 1
                progress.advance(bar, len(part))
            writer.start()
            note.write(finished=True)
    except KeyboardInterrupt:
        fail(
            f"interrupted after {done} of {len(inputs)} texts; add --resume to continue {output}", INTERRUPTED
        )
    finally:
        writer.close()
