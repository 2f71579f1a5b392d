"""To resume a run: a note beside its result says what it is made with, and rows are matched with results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gliclass_fast.cli.results import Kept, Layout
from gliclass_fast.cli.rows import FileFormatError, Row, shown


@dataclass(frozen=True, slots=True)
class Done:
    """Says how far a run was when it began to write its last part."""

    rows: int = 0  # of the input, in front of the part
    results: int = 0  # of these rows
    without: tuple[int, ...] = ()  # the numbers of the part's rows that have no result


class Resumed:
    """Matches the rows of an input with the results that are there already, in order."""

    def __init__(self, kept: Sequence[Kept], layout: Layout, skips: bool, done: Done) -> None:
        """Takes what tells the results apart, and whether rows that failed may be without one."""
        self._kept, self._layout, self._skips, self._done = kept, layout, skips, done
        self._row = self._used = 0
        self.failed = sum(each.failed for each in kept)  # and the rows without a result, once they are met

    def rest(self, rows: list[Row]) -> list[Row]:
        """Returns the rows of the next part that have no result; ValueError where results are of others."""
        for place, row in enumerate(rows):
            earlier = self._row < self._done.rows
            has_none = self._used == self._done.results if earlier else self._row in self._done.without
            if self._used == len(self._kept) and not earlier and not has_none:
                return rows[place:]
            if self._row == self._done.rows and self._used != self._done.results:
                self._refuse()
            if not has_none and self._layout.fits(self._kept[self._used], row):
                self._used += 1
            elif self._skips:
                self.failed += 1
            else:
                self._refuse()
            self._row += 1
        return []

    def finish(self) -> None:
        """Raises ValueError where there are more results than rows."""
        if self._used < len(self._kept):
            self._refuse()

    def _refuse(self) -> None:
        raise ValueError(
            "the --output file holds results of other texts; --resume continues a run over the same ones"
        )


def _done(noted: dict[str, Any]) -> Done:
    """Reads what `asdict` made of it."""
    rows, results, without = (noted.get(name, 0) for name in ("rows", "results", "without"))
    return Done(int(rows), int(results), tuple(map(int, without or ())))


def note_of(output: Path) -> Path:
    """Returns the file beside an output that says what it is made with."""
    return output.with_name(f"{output.name}.options.json")


class RunNote:
    """Notes what a result file is made with, in a file beside it.

    A run goes on with the options it began with. It may go on in another dtype, on another device and in
    other batches, as they only change how exactly the same model is computed. int8 is one of the options: it
    rounds the weights themselves, and no text can force a run to leave it.
    """

    def __init__(
        self, output: Path, source: str, options: dict[str, Any], dtype: str, skips: bool = False
    ) -> None:
        """Takes what to note.

        Args:
            source: the name of the input, which a reader of the note wants to know.
            options: JSON values by name; None is the value of an option that is not given. Those of "places"
                count in place of those that have their names, which may mean other files in another folder.
            skips: whether rows that fail have no result.
        """
        self.path, self._options = note_of(output), options
        self._output, self._source, self._dtypes = output, source, [dtype]
        self.skips, self.done, self._began = skips, Done(), Done()
        self._anew = True

    def check(self, resume: bool) -> None:
        """Raises ValueError where an unfinished run would be lost, or resumed with other options."""
        before, self._anew = self._before(), not resume
        if before is None:
            return
        options, dtypes = before["options"], before["dtypes"]
        if not resume and not before["finished"]:
            raise ValueError(
                f"{self._output} holds the results of an unfinished run: add --resume, or delete it"
            )
        if "precision" in options:  # the name that notes of 0.1.0 have
            options["quantization"] = options.pop("precision")
        now, before_places = dict(self._options), options.pop("places", None)
        places = now.pop("places", {})
        if before_places is not None:  # Notes of earlier versions have the names alone.
            now, options = {**now, **places}, {**options, **before_places}
        # as JSON, in which the order of labels counts within objects too
        other = [name for name in now if json.dumps(now[name]) != json.dumps(options.get(name))]
        if resume and other:
            raise ValueError(
                f"{self._output} was made with other options; --resume continues with the same: "
                f"{', '.join(other)} (see {self.path.name})"
            )
        if resume:
            self._dtypes = list(dict.fromkeys([*dtypes, *self._dtypes]))
            self.skips = self.skips or bool(before["skips"])
            self.done, self._began = before["done"], before["began"]

    def choose(self, kept: int) -> None:
        """Takes what fits a file of so many results: how far the run before was, or where it began.

        A run that is killed leaves a .parquet file as it found it, which lacks what its note counts.
        """
        fitting = (done for done in (self.done, self._began) if done.results <= kept)
        self.done = self._began = next(fitting, Done())

    @property
    def finished(self) -> bool | None:
        """Returns whether a run has ended, None where none is noted; FileFormatError for a damaged note."""
        before = self._before()
        return None if before is None else bool(before["finished"])

    def _before(self) -> dict[str, Any] | None:
        """Returns what is noted of the run before, or None where there is none, or its results are gone.

        They are gone where another run began anew, and ended before it could write a note.
        """
        if not (self.path.exists() and self._output.exists()):
            return None
        try:
            before = json.loads(self.path.read_text(encoding="utf-8"))
            noted = {name: before[name] for name in ("finished", "options", "dtypes")}
            if tuple(map(type, noted.values())) != (bool, dict, list):  # of JSON, so there are no subclasses
                raise ValueError
            done, began = _done(before), _done(before.get("began", {}))
            if done.results and not self._output.stat().st_size:
                return None
            return {**noted, "skips": before.get("skips"), "done": done, "began": began}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise FileFormatError(
                f"{self.path} is damaged: delete {self._output} and it, and begin anew"
            ) from None

    def begin(self) -> None:
        """Forgets an earlier run that this one does not continue, once its results are gone."""
        if self._anew:
            self.path.unlink(missing_ok=True)
            self._anew = False

    def write(self, finished: bool = False) -> None:
        note = {
            "finished": finished, "input": self._source, "options": self._options, "dtypes": self._dtypes,
            "skips": self.skips, **asdict(self.done), "began": asdict(self._began),
        }  # fmt: skip
        # exchanged whole, as a run that ends in the middle must leave a note to go on with
        new = self.path.with_name(f"{self.path.name}.new")
        try:
            new.write_text(shown(json.dumps(note, ensure_ascii=False)) + "\n", encoding="utf-8")
            new.replace(self.path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
