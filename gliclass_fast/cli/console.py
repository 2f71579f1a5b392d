"""The console: the commands share two consoles, some options, and the way to fail."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from gliclass_fast.demo import PATH

screen = Console()
errors = Console(stderr=True)

Device = Annotated[str, typer.Option(help="cuda or cpu; a GPU is used where there is one.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")
]
Column = Annotated[str, typer.Option(help="Column or key that holds the text of a file.")]
DEMO_MODEL = str(PATH)


def fail(message: str, code: int = 2) -> NoReturn:
    errors.print("error:", message, style="bold red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


class _Once(logging.Filter):
    """Shows a warning of one kind once: the parts of a job would repeat it, and its end has the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = str(record.msg) not in self._seen
        self._seen.add(str(record.msg))
        return new


def without_traceback(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a command that ends a user's mistake with its message and exit code 2."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from rich.logging import RichHandler

        handler = RichHandler(console=errors, show_path=False, show_time=False)
        handler.addFilter(_Once())
        logging.basicConfig(handlers=[handler], format="%(message)s")
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # the reader of a pipe has ended, which is no mistake
            # what standard output still holds goes nowhere, as Python would fail on it when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            fail(str(error))

    return run
