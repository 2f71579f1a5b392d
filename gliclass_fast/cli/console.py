"""The console: the commands share two consoles, some options, and the way to fail."""

from __future__ import annotations

from typing import Annotated, NoReturn

import torch
import typer
from rich.console import Console

from gliclass_fast import demo
from gliclass_fast.ops import ORDER
from gliclass_fast.runtime.device import resolve_device

screen = Console()
errors = Console(stderr=True)

Device = Annotated[str, typer.Option(help="cuda or cpu; a GPU is used where there is one.")]
Model = Annotated[
    str, typer.Option(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")
]
DEMO_MODEL = str(demo.PATH)


def usable(device: str) -> torch.device:
    """Returns the device that --device means, or the CPU without a GPU; ValueError for an unknown name."""
    if device.split(":")[0] not in ORDER:
        raise ValueError(f"unknown device {device!r}; choose one of: {', '.join(ORDER)}")
    return resolve_device(device, fall_back=True)


def fail(message: str, code: int = 2) -> NoReturn:
    errors.print("error:", message, style="bold red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)
