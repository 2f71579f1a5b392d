"""What a benchmark shows: tables, and a bar while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

screen = Console()
if not screen.is_terminal:
    screen.width = 120


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[str], None]]:
    """Shows a bar with the time left; a call with the name of the next step moves it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=total)
        first = True

        def step(name: str) -> None:
            nonlocal first
            bar.update(task, description=name, advance=0 if first else 1)
            first = False

        yield step


def show(columns: list[str], rows: list[list[str]], title: str | None = None) -> None:
    from rich.table import Column, Table

    table = Table(*(Column(Text(name)) for name in columns), title=None if title is None else Text(title))
    for row in rows:
        table.add_row(*map(Text, row))
    screen.print(table)
