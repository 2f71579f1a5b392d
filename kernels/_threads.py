"""Threads of a CPU: the kernels have their own, as many as torch has, and torch's can stay out of their way.

OpenMP's threads, which are torch's, stay awake for a while after each of torch's operations, and keep the
kernels' threads from the cores. A forked process has none of them, and an operation that needs them there
waits for ever. Where nearly all work is that of our kernels, torch does better with one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Thread, local

import torch

_kept = local()  # `count`: torch's number of threads, while torch itself has one


def thread_count() -> int:
    """Returns how many threads a kernel may use: as many as torch, or as it had before it was alone."""
    return getattr(_kept, "count", 0) or torch.get_num_threads()


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Has torch's operations run on the thread that calls them; `thread_count` stays what it was.

    Other threads of the process keep torch's setting. This does nothing where OpenMP cannot be reached.
    """
    count, set_count = torch.get_num_threads(), _openmp_setter()
    if count == 1 or set_count is None:
        yield
        return
    try:  # an interrupt may come at any time
        _kept.count = count
        set_count(1)
        yield
    finally:
        set_count(count)
        _kept.count = 0


@cache
def _openmp_setter() -> Callable[[int], None] | None:
    """Returns what sets the number of the calling thread alone, in the OpenMP that this torch uses.

    torch.set_num_threads is none: threads that start later follow it too.
    """
    found: list[Callable[[int], None]] = []

    def look() -> None:  # on a thread of its own, as its number is changed
        try:
            setter = ctypes.CDLL(None).omp_set_num_threads
        except (OSError, AttributeError, TypeError):  # TypeError: Windows has no library of all names
            return
        setter.argtypes, setter.restype = [ctypes.c_int], None
        wanted = torch.get_num_threads() + 1
        setter(wanted)
        if torch.get_num_threads() == wanted:  # else this is the OpenMP of another library
            found.append(setter)

    thread = Thread(target=look)
    thread.start()
    thread.join()
    return found[0] if found else None
