"""The options of classify: what a person may ask for, and what is checked before a library is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from gliclass_fast.checkpoint.documents import object_of_unique_names
from gliclass_fast.cli import console
from gliclass_fast.cli.inputs import check_apart, check_read_once, source_of
from gliclass_fast.cli.results import Layout
from gliclass_fast.cli.rows import TEXT_COLUMN, Reading
from gliclass_fast.text.hypotheses import split_labels

LEAST_WARM_UP = 4  # tokens of the shortest prompt there is, which has one label


class OnError(str, Enum):
    """Says what is done with a row that fails."""

    null = "null"
    skip = "skip"
    fail = "fail"


def classify(
    texts: Annotated[
        list[str] | None,
        Argument(
            help="Texts, or one .txt/.csv/.tsv/.json/.jsonl/.parquet file (.gz too); standard input, a text "
            "per line, for - or without any.",
        ),
    ] = None,
    labels: console.Labels = None,
    labels_file: console.LabelsFile = None,
    model: console.Model = console.DEMO_MODEL,
    threshold: console.Threshold = 0.5,
    top_k: console.TopK = None,
    single: console.Single = False,
    prompt: console.Prompt = None,
    examples: Annotated[Path | None, Option(help='JSON file: a list of {"text", "labels"} examples.')] = None,
    column: console.Column = TEXT_COLUMN,
    keep: console.Keep = None,
    encoding: console.Encoding = None,
    delimiter: console.Delimiter = None,
    output: Annotated[
        Path | None, Option("--output", "-o", help="Result file: .jsonl, .csv or .parquet.")
    ] = None,
    resume: Annotated[
        bool,
        Option(
            "--resume",
            help="Continue an interrupted --output, with the same options but for --on-error, --dtype, "
            "--device, --threads and --batch-tokens.",
        ),
    ] = False,
    no_text: console.NoText = False,
    on_error: Annotated[
        OnError,
        Option(help="A row that fails: its error as the result, no result, or the end of the job."),
    ] = OnError.null,
    labels_per_pass: Annotated[
        str | None,
        Option(help="Score so many labels at a time, or 'auto'.", show_default="all at once"),
    ] = None,
    max_length: console.MaxLength = 1024,
    text_chunk_size: Annotated[
        int | None,
        Option(help="Read texts in chunks of so many characters.", show_default="cut", min=1),
    ] = None,
    text_chunk_overlap: Annotated[
        int | None,
        Option(help="Characters that chunks share.", show_default="256, or a quarter", min=0),
    ] = None,
    adapters: console.Adapters = None,
    adapter_column: Annotated[
        str | None,
        Option(help="Column of the id of a row's adapter; empty: none.", show_default="one for all"),
    ] = None,
    batch_tokens: console.BatchTokens = None,
    warm_up: Annotated[
        str | None,
        Option(
            help=f"Tokens of batches, from {LEAST_WARM_UP} on, as 128,1024: they are recorded as CUDA graphs "
            "before the first text."
        ),
    ] = None,
    table: Annotated[
        bool | None,
        Option("--table/--json", help="Default: a table on a terminal, JSON lines in a pipe."),
    ] = None,
    device: console.Device = None,
    threads: console.Threads = None,
    dtype: console.Dtype = None,
    quantization: Annotated[
        str | None, Option("--quantization", "--precision", help=console.QUANTIZATION_HELP)
    ] = None,
) -> None:
    """Score texts against any labels."""
    console.check_device(device)
    read = {"--labels-file": labels_file, "--examples": examples}
    check_read_once(texts, read)
    given = labels_of(labels, labels_file)
    shots = examples_in(examples) if examples else None
    sizes = [] if warm_up is None else warm_up.split(",")
    if not all(size.isdecimal() and int(size) >= LEAST_WARM_UP for size in sizes):
        raise ValueError(
            f"--warm-up takes numbers of tokens, from {LEAST_WARM_UP}, separated by commas, not {warm_up!r}"
        )
    if resume and output is None:
        raise ValueError("--resume continues an --output file; give one")
    if output is not None and table is not None:
        raise ValueError(
            "--table and --json say how results are printed; --output writes them to a file instead"
        )
    if output is not None:
        check_apart(output, texts, read)
    if text_chunk_overlap is not None and text_chunk_size is None:
        raise ValueError("--text-chunk-overlap goes with --text-chunk-size")
    if text_chunk_size is not None and not (text_chunk_overlap or 0) < text_chunk_size:
        raise ValueError("--text-chunk-overlap must be less than --text-chunk-size")
    named = folders_of(adapters)
    if len(named) > 1 and adapter_column is None:
        raise ValueError("--adapter-column says which of several adapters a row has; give it")
    if adapter_column is not None and not named:
        raise ValueError("--adapter-column goes with --adapter ID=FOLDER")
    reading = reading_of(column, keep, encoding, delimiter)
    layout = Layout(reading.keep, not no_text, top_k)
    source = source_of(texts, replace(reading, adapter_column=adapter_column))

    console.let_threads_sleep()
    from gliclass_fast.cli.classify import Running, Scoring, run  # imports torch, which takes seconds

    passes: Any = labels_per_pass
    if labels_per_pass is not None and labels_per_pass.isdecimal():
        passes = int(labels_per_pass)
    scoring = Scoring(
        labels=given, model=model, threshold=threshold, single=single, prompt=prompt, examples=shots,
        labels_per_pass=passes, max_length=max_length, quantization=quantization,
        text_chunk_size=text_chunk_size, text_chunk_overlap=text_chunk_overlap, adapters=named,
        adapter_column=adapter_column,
    )  # fmt: skip
    running = Running(
        device=device, dtype=dtype, threads=threads, batch_tokens=batch_tokens,
        warm_up=[int(size) for size in sizes],
    )  # fmt: skip
    shown = console.is_terminal(console.screen) if table is None else table
    run(source, scoring, running, layout, on_error.value, output, resume, shown)


def reading_of(column: str, keep: list[str] | None, encoding: str | None, delimiter: str | None) -> Reading:
    """Returns how the files of an input are read."""
    names = (name.strip() for each in keep or () for name in each.split(","))
    kept = tuple(dict.fromkeys(name for name in names if name))
    return Reading(column, kept, encoding, "\t" if delimiter == "tab" else delimiter)


def folders_of(given: list[str] | None, option: str = "--adapter", kind: str = "ID") -> dict[str, str]:
    """Returns folders by their ids, as an option gives them; ValueError for what is not ID=FOLDER, or twice.

    kind: what the option calls an id.
    """
    found: dict[str, str] = {}
    for each in given or ():
        name, equals, folder = each.partition("=")
        if not (name and equals and folder):
            raise ValueError(f"{option} takes {kind}=FOLDER, not {each!r}")
        if name in found:
            raise ValueError(f"{option} names {name!r} twice: each needs its own {kind}")
        found[name] = folder
    return found


def labels_of(labels: list[str] | None, labels_file: Path | None) -> Any:
    """Returns the labels as a pipeline takes them; ValueError where both or none are given."""
    if bool(labels) == (labels_file is not None):
        raise ValueError("give the labels either as --labels a,b,c or as --labels-file FILE.json")
    if labels_file is not None:
        return labels_in(labels_file)
    return split_labels(",".join(labels or ()))


def labels_in(path: Path) -> Any:
    """Returns the labels of a JSON file, which are for all texts; ValueError for lists of them per text."""
    given = _read_json("--labels-file", path)
    if isinstance(given, list) and not all(isinstance(label, str) for label in given):
        raise ValueError(f"{path} must hold a list of strings, or nested objects, for all texts")
    return given


def examples_in(path: Path) -> list[dict[str, Any]]:
    """Returns the examples of a JSON file, which are for all texts; ValueError for one that lacks a part."""
    given = _read_json("--examples", path)
    if not isinstance(given, list):
        raise ValueError(f'{path} must hold a list of {{"text": ..., "labels": [...]}}')
    for number, example in enumerate(given, 1):
        for key in ("text", "labels"):
            if not isinstance(example, dict) or example.get(key) is None:
                raise ValueError(
                    f"{path}, example {number} has no {key!r}: an example has a text and its labels"
                )
    return given


def _read_json(option: str, path: Path) -> Any:
    """Returns what a JSON file holds; ValueError where it is not valid."""
    with opened(option, path):
        text = path.read_bytes()
    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=object_of_unique_names)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None


@contextmanager
def opened(option: str, path: Path) -> Iterator[None]:
    """Raises ValueError, which names the option, where its file cannot be opened."""
    try:
        yield
    except OSError as error:
        reason = "it is a folder" if path.is_dir() else error.strerror or error
        raise ValueError(f"{option} {path}: {reason}") from None
