"""What classify computes with: a model in the pipeline that the options ask for, and the job that runs it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gliclass_fast.checkpoint.documents import path_of
from gliclass_fast.chunking import ZeroShotClassificationWithChunkingPipeline
from gliclass_fast.cli.device import quiet, usable
from gliclass_fast.cli.inputs import Source
from gliclass_fast.cli.job import Job
from gliclass_fast.cli.lock import alone, check_place
from gliclass_fast.cli.printers import JsonLines, Tables
from gliclass_fast.cli.results import Layout, Outcome
from gliclass_fast.cli.resume import RunNote
from gliclass_fast.cli.rows import Row
from gliclass_fast.cli.scoring import Call, outcomes, score
from gliclass_fast.cli.writers import Writer, check_suffix, open_writer
from gliclass_fast.engine.engine import Engine
from gliclass_fast.pipeline import ZeroShotClassificationPipeline
from gliclass_fast.runtime.device import use_threads
from gliclass_fast.runtime.model import GLiClassModel
from gliclass_fast.text.labels import flatten_labels

TEXTS_AT_A_TIME = 128
OVERLAP = 256  # characters that two chunks of a text share; at most a quarter of a chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """Holds the options that scores depend on, under the names of the command line."""

    labels: Any
    model: str
    threshold: float
    single: bool
    prompt: str | None
    examples: Any
    labels_per_pass: Any
    max_length: int
    quantization: str | None
    text_chunk_size: int | None
    text_chunk_overlap: int | None
    adapters: dict[str, str]  # {id: folder}
    adapter_column: str | None  # which says the adapter of a row; None: the only adapter is for all rows

    def adapter_of(self, row: Row) -> str | None:
        """Returns the adapter of a row, which may have none; ValueError for one that there is not."""
        if self.adapter_column is None:
            return next(iter(self.adapters), None)
        found = row.kept[self.adapter_column]
        if found in (None, ""):
            return None
        if not isinstance(found, (str, int)) or str(found) not in self.adapters:
            raise ValueError(f"there is no adapter {found!r}; there are {sorted(self.adapters)}")
        return str(found)

    def checked(self, row: Row) -> Row:
        """Returns a row, with its error where it names an adapter that there is not."""
        try:
            self.adapter_of(row)
        except ValueError as error:
            return replace(row, error=row.error or str(error))
        return row


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """Holds the options that say where and how fast a model runs."""

    device: str | None
    dtype: str | None
    threads: int | None
    batch_tokens: int | None
    warm_up: list[int]


def run(
    source: Source, scoring: Scoring, running: Running, layout: Layout, on_error: str,
    output: Path | None, resume: bool, table: bool,
) -> None:  # fmt: skip
    """Scores a source into a file, or on the screen; it ends as `Job.run` does.

    Raises ValueError for a mistake in the options, and where another job writes the file.
    """
    with ExitStack() as held:
        if output is not None:
            _check_output(output, scoring.labels)
            held.enter_context(alone(output))
        quiet()
        use_threads(running.threads)
        loaded = GLiClassModel.from_pretrained(
            scoring.model, running.dtype, usable(running.device), quantization=scoring.quantization
        )
        for name, folder in scoring.adapters.items():
            loaded.load_adapter(name, folder)
        scorer, remedy = _scorer(scoring, running, loaded)
        job = Job(source, scorer, layout, on_error, scoring.checked, remedy)
        if output is None:
            writer: Writer = Tables(layout) if table else JsonLines()
            job.run(writer, TEXTS_AT_A_TIME)
            return
        note = RunNote(
            output, source.name, _noted(scoring, layout, source), str(loaded.dtype), skips=on_error == "skip"
        )
        note.check(resume)
        if resume and note.finished is not None and not layout.own_columns and source.identity is None:
            raise ValueError(f"--resume cannot tell the results of {source.name} apart without their texts")
        writer = open_writer(output, resume, layout)
        if writer.kept and note.finished is None:
            raise ValueError(
                f"{output} has results and no {note.path}: give another --output, or delete {output}"
            )
        job.run(writer, TEXTS_AT_A_TIME, output, note)


def _check_output(output: Path, labels: Any) -> None:
    """Raises ValueError for what would only show after the work was done, or would spoil it."""
    check_place(output)
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: give a file")
    if output.exists() and not output.is_file():
        raise ValueError(f"--output {output} is a pipe or a device: give a file")
    if output.exists() and not os.access(output, os.W_OK):
        raise ValueError(f"--output {output} cannot be written: it is read-only, or another user's")
    check_suffix(output)
    if output.suffix.lower() == ".csv" and any("|" in label for label in flatten_labels(labels)):
        raise ValueError("a label contains '|', which separates labels in .csv: write .jsonl or .parquet")


def _noted(scoring: Scoring, layout: Layout, source: Source) -> dict[str, Any]:
    """Returns the options that must be the same where a run is resumed."""
    adapters = dict(sorted(scoring.adapters.items()))
    options: dict[str, Any] = {
        "labels": scoring.labels, "model": scoring.model, "threshold": scoring.threshold,
        "single": scoring.single, "prompt": scoring.prompt, "examples": scoring.examples,
        "labels-per-pass": scoring.labels_per_pass, "max-length": scoring.max_length,
        "quantization": scoring.quantization, "text-chunk-size": scoring.text_chunk_size,
        "text-chunk-overlap": scoring.text_chunk_overlap, "adapters": adapters or None,
        "adapter-column": scoring.adapter_column, "keep": list(layout.keep) or None,
        "no-text": not layout.text or None, "top-k": layout.top_k,
    }  # fmt: skip
    folders = {name: _folder(each) for name, each in adapters.items()}
    places: dict[str, Any] = {"model": _folder(scoring.model), "adapters": folders or None}
    if not layout.own_columns:  # Only the input tells what results without texts belong to.
        options["input"], places["input"] = source.name, source.identity
    return {**options, "places": places}


def _folder(model: str) -> str:
    """Returns the whole path of a folder, or the id of a repository as it is."""
    path = path_of(model)
    return str(path.resolve()) if path.is_dir() else model


def _scorer(scoring: Scoring, running: Running, loaded: GLiClassModel) -> tuple[Any, str]:
    """Returns what gives the outcomes of rows, the first of which has a given number, and `Job`'s remedy."""
    most = max(loaded.loaded.batch_tokens(running.batch_tokens), scoring.max_length)
    if (largest := max(running.warm_up, default=0)) > most:
        raise ValueError(f"--warm-up {largest}: a batch here has at most {most} tokens (--batch-tokens)")
    made = {
        "max_length": scoring.max_length, "device": loaded.device, "progress_bar": False,
        "classification_type": "single-label" if scoring.single else "multi-label",
        "batch_tokens": running.batch_tokens, "warm_up": running.warm_up,
        "on_truncation": "ignore",  # the job itself says which texts are cut
    }  # fmt: skip
    given = {
        "labels": scoring.labels, "threshold": scoring.threshold, "prompt": scoring.prompt,
        "examples": scoring.examples,
    }  # fmt: skip
    chunked = scoring.text_chunk_size is not None
    engine, call = (_chunks if chunked else _whole)(scoring, loaded, made, given)
    remedy = "--max-length or --text-chunk-size" if engine.cuts.may_grow else "--text-chunk-size"
    return lambda rows, first: score(rows, first, call, scoring.adapter_of), remedy


def _whole(scoring: Scoring, loaded: Any, made: dict[str, Any], given: dict[str, Any]) -> tuple[Engine, Call]:
    pipeline = ZeroShotClassificationPipeline(loaded, scoring.model, **made)

    def call(texts: list[str], first: int, adapters: list[str | None]) -> list[Outcome]:
        found, infos = pipeline(
            texts, **given, labels_per_pass=scoring.labels_per_pass, first_text=first, return_info=True,
            adapter_ids=adapters,
        )  # fmt: skip
        return outcomes(found, [info.tokens_cut for info in infos])

    return pipeline.engine, call


def _chunks(
    scoring: Scoring, loaded: Any, made: dict[str, Any], given: dict[str, Any]
) -> tuple[Engine, Call]:
    if scoring.labels_per_pass == "auto":
        raise ValueError("with --text-chunk-size, --labels-per-pass takes a number")
    size, overlap = scoring.text_chunk_size or 0, scoring.text_chunk_overlap
    pipeline = ZeroShotClassificationWithChunkingPipeline(
        loaded, scoring.model, **made, text_chunk_size=size,
        text_chunk_overlap=min(OVERLAP, size // 4) if overlap is None else overlap,
        labels_chunk_size=scoring.labels_per_pass or max(1, len(flatten_labels(scoring.labels))),
    )  # fmt: skip

    def call(texts: list[str], first: int, adapters: list[str | None]) -> list[Outcome]:
        found, infos = pipeline(texts, **given, return_info=True, adapter_ids=adapters)
        return outcomes(found, [info.tokens_cut for info in infos])

    return pipeline.engine, call
