"""The batch command with a classifier that notes which rows it scores.

`python -m tests.serving.counted LOG PAUSE small|whole INPUT ...`: whole leaves blocks as they are read.
"""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer

from gliclass_fast.cli.batch import batch
from gliclass_fast.cli.console import without_traceback
from gliclass_fast.serving import ray_job
from gliclass_fast.serving.ray_data import Classifier

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(without_traceback(batch))


class Counting(Classifier):
    """Appends a line to a file for every batch, before it is scored: the process and the rows.

    A pause makes a small block take as long as a large one, whose results are written meanwhile.
    """

    def __init__(self, log: Path, pause: float, **options: Any) -> None:
        super().__init__(**options)
        self._log, self._pause = log, pause

    def __call__(self, batch: Any) -> Any:
        line = json.dumps({"pid": os.getpid(), "rows": batch["row_id"].to_pylist()}) + "\n"
        with self._log.open("ab", buffering=0) as log:
            log.write(line.encode())
        time.sleep(self._pause)
        return super().__call__(batch)


def counted(log: Path, pause: float, **job: Any) -> Any:
    """Makes the jobs of this process count and pause, seconds a batch, and sets other fields of theirs."""
    counting = partial(ray_job.BatchJob, classifier=partial(Counting, log, pause))
    return patch.object(ray_job, "BatchJob", lambda *args, **kwargs: counting(*args, **{**kwargs, **job}))


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


if __name__ == "__main__":
    # workers import this file as a module of another name
    from tests.serving import counted as module

    log, pause, blocks, *arguments = sys.argv[1:]
    with module.counted(Path(log), float(pause), **({"block_rows": None} if blocks == "whole" else {})):
        app(arguments)
