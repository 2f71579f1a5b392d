"""Standard output: results are printed as JSON lines for programs, or as tables for people."""

from __future__ import annotations

import sys

from gliclass_fast.cli.console import screen
from gliclass_fast.cli.results import Kept, Layout, Record, json_line
from gliclass_fast.cli.tables import table, visible_json


class _Screen:
    """Is what writers to standard output share: they keep nothing and need no opening."""

    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


class JsonLines(_Screen):
    """Writes one object per line to standard output."""

    def write(self, record: Record) -> None:
        sys.stdout.write(visible_json(json_line(record)))

    def flush(self) -> None:
        sys.stdout.flush()


class Tables(_Screen):
    """Prints what was written since the last `flush` as a table."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._columns, self._rows = layout.own_columns, list[list[str]]()

    def write(self, record: Record) -> None:
        found = record["predictions"]
        lines = [f"{each['score']:.2f}  {each['label']}" for each in found or ()]
        shown = record["error"] if found is None else "\n".join(lines) or "-"
        own = ["" if record[name] is None else str(record[name]) for name in self._columns]
        self._rows.append([*own, shown])

    def flush(self) -> None:
        screen.print(table([*self._columns, "labels"], self._rows, show_lines=True))
        self._rows = []
