"""How a checkpoint that is not valid must be refused: in one line, soon, and in little memory."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gliclass_fast import CheckpointError, UnsupportedConfigError

MOST_MEGABYTES, MOST_SECONDS = 200, 2.0


def peak_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def refused(load: Callable[[], Any], message: str) -> None:
    """Checks that loading stops with a message of one line, soon, and in little memory.

    Processor time counts, as machines are busy.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = peak_megabytes(), time.process_time()
    with pytest.raises((CheckpointError, UnsupportedConfigError)) as raised:
        load()
    assert time.process_time() - start < MOST_SECONDS
    assert peak_megabytes() - before < MOST_MEGABYTES
    text = str(raised.value)
    assert re.search(message, text), text
    assert "\n" not in text and len(text) < 2000
