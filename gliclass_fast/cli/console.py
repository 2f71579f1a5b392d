"""The console: the commands share two consoles, some options, and the way to fail."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer import Option

from gliclass_fast.cli.tables import visible
from gliclass_fast.demo import PATH
from gliclass_fast.runtime.shortage import is_shortage


class _Screen(Console):
    """Leaves it to the command what becomes of a reader that has ended."""

    def on_broken_pipe(self) -> None:
        raise  # the error at hand


class _Errors(Console):
    """Says nothing more where nobody reads it, so that a command ends with the exit code that it means."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError:  # of a full disk
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # what standard error still holds goes nowhere, as Python would fail on it when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class _Visible(logging.Formatter):
    """Shows what would act on a terminal: a message may repeat a part of what was read."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def is_terminal(console: Console) -> bool:
    """Tells whether a person may look at it; rich also says so of pipes, where FORCE_COLOR is set."""
    return console.file.isatty()


screen = _Screen()
errors = _Errors(stderr=True)
for _console in (screen, errors):
    if not _console.width:  # as COLUMNS=0 says, with which nothing would be shown
        _console.width = 80

Device = Annotated[str | None, Option(help="cuda or cpu.", show_default="a GPU where there is one")]
Model = Annotated[str, Option(help="Checkpoint folder or repository id.", show_default="the demo checkpoint")]
Column = Annotated[str, Option(help="Column or key that holds the text of a file.")]
Adapters = Annotated[
    list[str] | None,
    Option("--adapter", help="ID=FOLDER: a LoRA adapter that PEFT saved; may be given several times."),
]
Labels = Annotated[list[str] | None, Option(help="Labels, separated by commas; may be given several times.")]
LabelsFile = Annotated[Path | None, Option(help="JSON file: a list of labels or nested objects.")]
Threshold = Annotated[float, Option(help="Lowest score that counts, 0 to 1.", min=0, max=1)]
MaxLength = Annotated[int, Option(help="Window in tokens.", min=1)]
# where None leaves it to what else is configured
ConfiguredThreshold = Annotated[
    float | None, Option(help="For requests that name none, 0 to 1.", show_default="0.5", min=0, max=1)
]
ConfiguredMaxLength = Annotated[int | None, Option(help="Window in tokens.", show_default="1024", min=1)]
BatchTokens = Annotated[int | None, Option(help="Tokens per batch.", show_default="by device", min=1)]
QUANTIZATION_HELP = "int8: faster on a CPU, and less exact; see `check --quantization`."
Quantization = Annotated[str | None, Option(help=QUANTIZATION_HELP)]
TopK = Annotated[int | None, Option(help="At most so many labels per text, the best.", min=1)]
Single = Annotated[bool, Option("--single", help="One label per text: the best, scores sum to 1.")]
Prompt = Annotated[str | None, Option(help="Task description put before the text.")]
Keep = Annotated[
    list[str] | None,
    Option(help="Other columns for the result, as id,date; may be given several times.", show_default="none"),
]
Encoding = Annotated[str | None, Option(help="Of the input.", show_default="utf-8")]
Delimiter = Annotated[
    str | None, Option(help="Of a .csv or .tsv file; or the word tab.", show_default=", or tab")
]
NoText = Annotated[bool, Option("--no-text", help="Leave the text out of the result.")]
Dtype = Annotated[
    str | None,
    Option(help="float32, float16, bfloat16, or auto.", show_default="16 bit on a GPU, else float32"),
]
Threads = Annotated[int | None, Option(help="Threads of the CPU.", show_default="torch's", min=1)]
DEMO_MODEL = str(PATH)
DEVICES = ("cuda", "cpu")  # the keys of ops.ORDER, which imports torch
_MISTAKES = (ValueError, TypeError, OSError, FloatingPointError)
# {module: the extra that installs it}
EXTRAS = {
    "filelock": "cli", "pyarrow": "data", "ray": "ray", "pandas": "ray",  # which Ray's own package leaves out
    **dict.fromkeys(("fastapi", "opentelemetry", "prometheus_client", "uvicorn", "yaml"), "serve"),
}  # fmt: skip


def let_threads_sleep() -> None:
    """Lets OpenMP's threads sleep where they wait, unless the environment says something else.

    This counts only before torch is imported. Where torch computes something on threads of its own, as in 16
    bit, these would stay awake between its operations, and keep other work from the cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def check_device(device: str | None) -> None:
    """Raises ValueError for what is no device of the engine's, as cuda, cuda:1 and cpu are; None is fine."""
    if device is not None and re.fullmatch(rf"({'|'.join(DEVICES)})(:\d+)?", device) is None:
        raise ValueError(f"unknown device {device!r}; choose one of: {', '.join(DEVICES)}")


def fail(message: str, code: int = 2) -> NoReturn:
    errors.print("error:", visible(message), style="bold red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def reason(error: BaseException) -> str:
    """Returns what an error says, in a line; errors of memory may say nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class _Once(logging.Filter):
    """Shows a warning of one kind once: the parts of a job would repeat it, and its end has the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        new = str(record.msg) not in self._seen
        self._seen.add(str(record.msg))
        return new


def without_traceback(
    command: Callable[..., None], less: str = "A smaller model, --batch-tokens or --max-length"
) -> Callable[..., None]:
    """Makes a command that ends a user's mistake with its message and exit code 2.

    less: what may need less memory, for a command that has other options.
    """

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        from rich.logging import RichHandler

        handler = RichHandler(console=errors, show_path=False, show_time=False)
        handler.addFilter(_Once())
        handler.setFormatter(_Visible("%(message)s"))
        logging.basicConfig(handlers=[handler])
        try:
            command(*args, **kwargs)
        except BrokenPipeError:  # the reader of a pipe has ended, which is no mistake
            # what standard output still holds goes nowhere, as Python would fail on it when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except Exception as error:
            if is_shortage(error):
                fail(f"out of memory: {reason(error)}. {less} needs less")
            missing = str(error.name).partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
            if missing in EXTRAS:
                fail(f"{missing} is missing: pip install 'gliclass-fast[{EXTRAS[missing]}]'")
            if not isinstance(error, _MISTAKES):
                raise
            fail(str(error))

    return run
