"""Threads that get in each other's way as often as they can."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Thread


def run_together(work: Callable[[int], None]) -> None:
    """Calls `work` with 0 to 3, each on a thread of its own; the threads take turns all the time."""
    threads = [Thread(target=work, args=(number,)) for number in range(4)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
