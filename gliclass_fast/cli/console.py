"""What the commands share: two consoles, options, and how a command fails."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console

from gliclass_fast import demo

screen = Console()
errors = Console(stderr=True)

Device = Annotated[str, typer.Option(help="cuda or cpu; a GPU is used where there is one.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")
]
DEMO_MODEL = str(demo.PATH)


def fail(message: str, code: int = 2) -> NoReturn:
    errors.print("error:", message, style="bold red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)
