"""While a job runs: a bar shows how far it is, and the signals that end a process do so in good order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gliclass_fast.cli.console import errors, is_terminal


@contextmanager
def progress(total: int | None, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yields what is called after each part with the number of texts that are done.

    It moves a bar, which appears on a terminal alone and once there is more than one part.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=errors, disable=not (shown and is_terminal(errors)))
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


@dataclass(slots=True)
class Signals:
    """Says whether the signals that end a process are held back: one that comes then changes nothing."""

    held: bool = False


@contextmanager
def interruptible() -> Iterator[Signals]:
    """Lets the signals that end a process interrupt it as ctrl-C does, so that what there is gets written."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        yield signals
        return

    def interrupt(*_: object) -> None:
        if not signals.held:
            raise KeyboardInterrupt

    names = {"SIGINT", "SIGTERM", "SIGHUP"} & set(dir(signal))
    before = {name: signal.signal(getattr(signal, name), interrupt) for name in names}
    try:
        yield signals
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)
