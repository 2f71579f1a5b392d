"""A run of the batch command: whether it begins or goes on, the job of Ray Data, and a count at the end."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from gliclass_fast.cli.batch_files import Files, files_of, tables
from gliclass_fast.cli.batch_results import check_results
from gliclass_fast.cli.console import errors, fail
from gliclass_fast.cli.job import FAILED_ROWS, INTERRUPTED, MOST_NAMED, said_of_cuts
from gliclass_fast.cli.lock import alone
from gliclass_fast.cli.progress import interruptible
from gliclass_fast.cli.resume import RunNote
from gliclass_fast.cli.rows import Reading

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchRun:
    """Says what is scored, how and where.

    options: of `Classifier`. cluster: of `Cluster`. text: whether results have the text.
    """

    source: Path
    output: Path
    reading: Reading
    options: dict[str, Any]
    cluster: dict[str, Any]
    block_rows: int = 128
    text: bool = True

    @property
    def checkpoint(self) -> Path:
        """Returns the folder that names the rows which are done."""
        return self.output.with_name(f"{self.output.name}.checkpoint")

    def run(self, resume: bool = False) -> None:
        """Scores what is not scored yet, and says what there is then.

        Raises ValueError for input that cannot be read, a mistake in the options, or an output of other
        options or of another job that runs. Ends with the exit code 3 where rows failed, and 130 after an
        interrupt.
        """
        with alone(self.output):
            self._run(resume)

    def _run(self, resume: bool) -> None:
        # a link's own name tells the kind of file, so it is not followed
        files = files_of(self.source.absolute(), self.reading, self.output)
        note = self._note(files)
        if goes_on := self._goes_on(note, resume):
            note.write()
            try:
                self.score(files)
            except ValueError:
                if not self.output.exists():  # nothing began, as where Ray does not start
                    note.path.unlink(missing_ok=True)
                raise
        failed, said = self._summary(files, note)
        note.write(finished=True)
        shutil.rmtree(self.checkpoint, ignore_errors=True)  # not before, as it is what a resumed job goes by
        for line in said:
            errors.print(line, markup=False, highlight=False, soft_wrap=True)
        if failed and goes_on:
            raise typer.Exit(FAILED_ROWS)

    def _note(self, files: Files) -> RunNote:
        own = {"dtype", "device", "batch_tokens"}  # these may be others when a job goes on
        options = {**self.options, **self.options["call"]}  # each by the name that its user knows
        noted = {name.replace("_", "-"): options[name] for name in options if name not in (*own, "call")}
        noted |= {"column": self.reading.column, "keep": list(self.reading.keep), "no-text": not self.text}
        noted |= {
            "encoding": self.reading.encoding,
            "delimiter": self.reading.delimiter,
            "input": files.state,
        }
        return RunNote(self.output, str(self.source), noted, self.options["dtype"] or "by device")

    def _goes_on(self, note: RunNote, resume: bool) -> bool:
        """Tells whether there is something to score; ValueError where results would be lost or mixed."""
        if not self.output.exists() or (self.output.is_dir() and not any(self.output.iterdir())):
            shutil.rmtree(self.checkpoint, ignore_errors=True)  # the results that it names are gone
            return True
        note.check(resume)
        if not resume:
            raise ValueError(f"{self.output} exists already: give another --output, or delete it")
        if note.finished is None:
            raise ValueError(
                f"{self.output} is there without {note.path}, so nothing tells how it was made: give another "
                "--output"
            )
        if not note.finished and not self.checkpoint.is_dir():
            raise ValueError(
                f"{self.checkpoint} is missing, and it tells what is done: delete {self.output} as well"
            )
        # before a text is scored, as Ray goes by the names of files and would find it at the end, or never
        check_results(
            self.output, None if note.finished else self.checkpoint, self._columns, self._anew(note)
        )
        return not note.finished

    @property
    def _columns(self) -> list[str]:
        text = ["text"] if self.text else []
        return ["row_id", "file", "row", *self.reading.keep, *text, "error", "labels", "scores", "tokens_cut"]

    def _anew(self, note: RunNote) -> str:
        """Returns the advice to begin anew, which deletes what Ray notes of the job."""
        return f"delete {self.output} and {note.path}, and begin anew"

    def score(self, files: Files) -> None:
        """Scores what has no results yet, on actors of Ray."""
        from gliclass_fast.serving.ray_cluster import Cluster, connected
        from gliclass_fast.serving.ray_job import BatchJob, Rows

        job = BatchJob(
            Rows(files.pieces, partial(tables, reading=self.reading)), self.options,
            self.output.resolve(), self.checkpoint.resolve(), block_rows=self.block_rows,
            dropped=() if self.text else ("text",),
        )  # fmt: skip
        try:
            # again once it is connected, as Ray takes signals for itself when it begins
            with interruptible(), connected(Cluster(**self.cluster)) as actors, interruptible():
                if (self.options["device"] or "").startswith("cuda") and not actors.gpus:
                    logger.warning("--device cuda: the actors have no GPU, so they run on the CPU")
                job.run(actors)
        except KeyboardInterrupt:
            fail(f"interrupted; add --resume to continue {self.output}", INTERRUPTED)
        except ValueError as error:
            if any(self.output.glob("*.parquet")):
                raise ValueError(f"{error}. Add --resume to continue {self.output}") from error
            raise

    def _summary(self, files: Files, note: RunNote) -> tuple[int, list[str]]:
        """Returns how many rows failed, and what to say of the results; ValueError where rows are missing."""
        from pyarrow import dataset

        results = dataset.dataset(self.output, format="parquet")
        if (rows := results.count_rows()) != files.rows:
            held = f"{self.output} holds {rows} results of {files.rows} texts of {self.source}"
            if rows > files.rows:
                raise ValueError(f"{held}, so rows are there more than once: {self._anew(note)}")
            raise ValueError(f"{held}, so rows are lost: {self._anew(note)}")
        said = [f"{rows} texts of {self.source} classified into {self.output}"]
        if cut := results.count_rows(dataset.field("tokens_cut") > 0):
            remedy = "a larger --max-length, up to the model's own window,"  # which the workers know
            said.append(said_of_cuts(cut, rows, remedy))
        is_failed = dataset.field("error").is_valid()
        if failed := results.count_rows(is_failed):
            said.append(f"{failed} of {rows} rows failed")
            columns = ["file", "row", "error"]
            named = results.head(MOST_NAMED, columns=columns, filter=is_failed).to_pylist()
            said += [f"{row['file']}, row {row['row']}: {row['error']}" for row in named]
        return int(failed), said
