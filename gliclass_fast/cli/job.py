"""A job: rows of a source become results of a writer, part by part, and a count at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from gliclass_fast.cli.console import errors, fail, is_terminal, reason, screen
from gliclass_fast.cli.inputs import Source
from gliclass_fast.cli.progress import interruptible, progress
from gliclass_fast.cli.results import Layout, Outcome
from gliclass_fast.cli.resume import Done, Resumed, RunNote
from gliclass_fast.cli.rows import Row
from gliclass_fast.cli.writers import Writer
from gliclass_fast.runtime.shortage import is_shortage

FAILED_ROWS, INTERRUPTED = 3, 130
MOST_NAMED = 10  # rows that a summary names


def said_of_cuts(cut: int, texts: int, remedy: str, named: str = "") -> str:
    """Returns what a summary says of texts that the window cut; remedy: what may leave them whole."""
    return f"the window cut {cut} of {texts} texts{named}; {remedy} may have them read whole"


@dataclass(slots=True)
class Tally:
    """Counts rows, and names the first of them."""

    count: int = field(default=0, init=False)
    _first: list[str] = field(default_factory=list, init=False)

    def add(self, name: str) -> None:
        self.count += 1
        if self.count <= MOST_NAMED:
            self._first.append(name)

    def named(self) -> list[str]:
        more = self.count - len(self._first)
        return [*self._first, *([f"and {more} more"] if more else [])]


@dataclass(slots=True)
class Job:
    """Runs a source through a model.

    score: gives the outcomes of rows, the first of which has the given number. on_error: what is done with a
    row that fails: "null" writes its error, "skip" leaves it out, "fail" ends the job there. checked: gives a
    row its error where it shows before the row is scored. remedy: the options that may leave texts whole.
    """

    source: Source
    score: Callable[[Sequence[Row], int], list[Outcome]]
    layout: Layout
    on_error: str
    checked: Callable[[Row], Row]
    remedy: str
    _failed: Tally = field(default_factory=Tally, init=False)
    _cut: Tally = field(default_factory=Tally, init=False)
    _done: int = field(default=0, init=False)  # rows of whole parts
    _reached: int = field(default=0, init=False)  # rows, with those of the part at hand that the writer has
    _written: int = field(default=0, init=False)  # results

    def run(self, writer: Writer, size: int, output: Path | None = None, note: RunNote | None = None) -> None:
        """Writes the results of all rows, in parts of at most `size`.

        Raises ValueError for a row that fails with on_error "fail", and ends with the exit code 3 where rows
        failed, 130 after an interrupt, and 2 where the disk is full, say; what is in a file stays there.
        """
        if note is not None:
            note.choose(len(writer.kept))
        before = (False, Done()) if note is None else (note.skips, note.done)
        resumed = Resumed(writer.kept, self.layout, *before)
        try:
            with interruptible() as signals:
                try:
                    with progress(self.source.total, output is not None or not is_terminal(screen)) as step:
                        self._parts(resumed, size, writer, note, step)
                    writer.start()
                finally:
                    signals.held = True  # as a .parquet file that is not written to its end is lost
                    writer.close()
                if note is not None:
                    note.write(finished=True)  # once all results are in the file
        except KeyboardInterrupt:
            hint = "" if output is None else f"; add --resume to continue {output}"
            fail(f"interrupted after {self._of_all(max(self._done, self._reached))}{hint}", INTERRUPTED)
        except (OSError, RuntimeError, MemoryError) as error:
            if output is None or not (isinstance(error, OSError) or is_shortage(error)):
                raise
            # the last part may be in the file only partly, so it is not counted
            done = self._of_all(self._done if output.exists() else 0)
            begun = self._done or self._written or writer.kept
            hint = f". Add --resume to continue {output}" if begun else ""
            fail(f"stopped after {done}: {reason(error)}{hint}")
        self._summary(output, resumed.failed)

    def _of_all(self, done: int) -> str:
        return f"{done}{'' if self.source.total is None else f' of {self.source.total}'} texts"

    def _parts(
        self, resumed: Resumed, size: int, writer: Writer, note: RunNote | None, step: Callable[[int], None]
    ) -> None:
        for part in self.source.parts(size):
            if rest := resumed.rest(list(map(self.checked, part))):
                resumed.finish()
                self._reached = self._done + len(part) - len(rest)
                self._part(rest, self._reached, writer, note)
            self._done += len(part)
            step(self._done)
        resumed.finish()

    def _part(self, rows: list[Row], first: int, writer: Writer, note: RunNote | None) -> None:
        found = self.score(rows, first)
        # An earlier result is lost here: not before, as a mistake must not cost it, and not after the note of
        # this run, which must not stand beside the results of another one.
        writer.start()
        if note is not None:
            failed = (number for number, outcome in enumerate(found, first) if outcome.error is not None)
            without = tuple(failed) if self.on_error == "skip" else ()
            note.done = Done(first, len(writer.kept) + self._written, without)
            note.begin()
            note.write()
        try:
            self._write(rows, found, writer)
        finally:
            writer.flush()

    def _write(self, rows: list[Row], found: list[Outcome], writer: Writer) -> None:
        for row, outcome in zip(rows, found, strict=True):
            if outcome.error is not None:
                if self.on_error == "fail":
                    raise ValueError(
                        f"{self.source.name}, {row.place}: {outcome.error}. With --on-error null or skip the "
                        "job goes on after such a row"
                    )
                self._failed.add(f"{row.place}: {outcome.error}")
            if outcome.cut:
                self._cut.add(row.place)
            if outcome.error is None or self.on_error == "null":
                writer.write(self.layout.record(row, outcome))
                self._written += 1
            self._reached += 1

    def _summary(self, output: Path | None, before: int) -> None:
        """Says on standard error what was done, where that is not seen, and ends with 3 if rows failed.

        before: the rows that failed in the run that this one continues.
        """
        if output is not None:
            self._say(f"{self._done} texts of {self.source.name} classified into {output}")
        if self._cut.count:
            named = f" ({', '.join(self._cut.named())})"
            self._say(said_of_cuts(self._cut.count, self._done, self.remedy, named))
        if failed := self._failed.count + before:
            of_them = f", {before} of them before" if before else ""
            self._say(f"{failed} of {self._done} rows failed{of_them}")
            for row in self._failed.named():
                self._say(row)
        if self._failed.count:  # those before were reported by the run that met them
            raise typer.Exit(FAILED_ROWS)

    def _say(self, message: str) -> None:
        errors.print(message, markup=False, highlight=False, soft_wrap=True)
