"""A job: rows of a source become results of a writer, part by part, and a count at the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gliclass_fast.cli.console import errors, fail, screen
from gliclass_fast.cli.inputs import Source
from gliclass_fast.cli.note import RunNote
from gliclass_fast.cli.results import Layout, Outcome
from gliclass_fast.cli.rows import Row
from gliclass_fast.cli.writers import Writer

FAILED_ROWS, INTERRUPTED = 3, 130
MOST_NAMED = 10  # rows that a summary names


@dataclass(slots=True)
class Tally:
    """Counts rows, and names the first of them."""

    count: int = 0
    _first: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        self.count += 1
        if self.count <= MOST_NAMED:
            self._first.append(name)

    def named(self) -> list[str]:
        more = self.count - len(self._first)
        return [*self._first, *([f"and {more} more"] if more else [])]


class Resumed:
    """Matches the rows of an input with the results that are there already."""

    def __init__(self, kept: Sequence[str], layout: Layout, skips: bool, output: Path | None) -> None:
        """Takes the identities of results; skips: whether rows may be without one."""
        self._kept, self._layout, self._skips, self._output = kept, layout, skips, output
        self._used = 0
        self.skipped = 0  # rows without a result before the last one that has one

    def rest(self, rows: list[Row]) -> list[Row]:
        """Returns the rows of the next part that have no result; ValueError where results are of others."""
        for place, row in enumerate(rows):
            if self._used == len(self._kept):
                return rows[place:]
            if self._layout.identity_of(row) == self._kept[self._used]:
                self._used += 1
            elif self._skips:
                self.skipped += 1
            else:
                self._refuse()
        return []

    def finish(self) -> None:
        """Raises ValueError where there are more results than rows."""
        if self._used < len(self._kept):
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            f"{self._output} holds results of other texts; --resume continues a run over the same ones"
        )


@dataclass(slots=True)
class Job:
    """Runs a source through a model.

    score: gives the outcomes of rows, the first of which has the given number. on_error: what is done with a
    row that fails: "null" writes its error, "skip" leaves it out, "fail" ends the job there.
    """

    source: Source
    score: Callable[[Sequence[Row], int], list[Outcome]]
    layout: Layout
    on_error: str
    _failed: Tally = field(default_factory=Tally)
    _cut: Tally = field(default_factory=Tally)
    _done: int = 0

    def run(self, writer: Writer, size: int, output: Path | None = None, note: RunNote | None = None) -> None:
        """Writes the results of all rows, in parts of at most `size`.

        Raises ValueError for a row that fails with on_error "fail", and ends with the exit code 3 where rows
        failed and 130 after an interrupt.
        """
        resumed = Resumed(writer.kept, self.layout, note is not None and note.skips, output)
        try:
            with _interruptible(), self._progress(output is not None or not screen.is_terminal) as step:
                for part in self.source.parts(size):
                    if rest := resumed.rest(part):
                        resumed.finish()
                        self._part(rest, self._done + len(part) - len(rest), writer, note)
                    self._done += len(part)
                    step(self._done)
            resumed.finish()
            writer.start()
            if note is not None:
                note.write(finished=True)
        except KeyboardInterrupt:
            of = "" if self.source.total is None else f" of {self.source.total}"
            hint = "" if output is None else f"; add --resume to continue {output}"
            fail(f"interrupted after {self._done}{of} texts{hint}", INTERRUPTED)
        finally:
            writer.close()
        self._summary(output, writer.failed + resumed.skipped)

    def _part(self, rows: list[Row], first: int, writer: Writer, note: RunNote | None) -> None:
        found = self.score(rows, first)
        if note is not None:
            note.write()
        writer.start()  # not before, as a mistake must not cost an earlier result
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
        writer.flush()

    def _summary(self, output: Path | None, before: int) -> None:
        """Says on standard error what was done, where that is not seen, and ends with 3 if rows failed.

        before: the rows that failed in the run that this one continues.
        """
        if output is not None:
            self._say(f"{self._done} texts of {self.source.name} classified into {output}")
        if self._cut.count:
            self._say(
                f"the window cut {self._cut.count} of {self._done} texts ({', '.join(self._cut.named())}); "
                "--max-length or --text-chunk-size may have them read whole"
            )
        if failed := self._failed.count + before:
            of_them = f", {before} of them before" if before else ""
            self._say(f"{failed} of {self._done} rows failed{of_them}")
            for row in self._failed.named():
                self._say(row)
            raise typer.Exit(FAILED_ROWS)

    def _say(self, message: str) -> None:
        errors.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _progress(self, shown: bool) -> Iterator[Callable[[int], None]]:
        """Yields what moves a bar, which appears on a terminal and once there is more than one part."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=errors, disable=not (shown and errors.is_terminal))
        total = self.source.total
        task = bar.add_task("classifying", total=total)
        parts = count(1)

        def step(done: int) -> None:
            bar.update(task, completed=done)
            if next(parts) > 1 if total is None else done < total:
                bar.start()

        try:
            yield step
        finally:
            bar.stop()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Has the signals that end a process interrupt it as ctrl-C does, so that what there is gets written."""
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        yield
        return
    names = {"SIGINT", "SIGTERM", "SIGHUP"} & set(dir(signal))
    before = {name: signal.signal(getattr(signal, name), signal.default_int_handler) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
