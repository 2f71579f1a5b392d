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
from pathlib import Path
from threading import Thread, local

import torch

SetCount = Callable[[int], int]

_kept = local()  # `count`: torch's number of threads, while torch itself has one


def thread_count() -> int:
    """Returns how many threads a kernel may use: as many as torch, or as it had before it was alone."""
    return getattr(_kept, "count", 0) or torch.get_num_threads()


def counts_differ() -> bool:
    """Returns whether threads of a process can have numbers of their own, as `use_threads_here` gives them."""
    return _setters() is not None


def use_threads_here(count: int) -> None:
    """Sets how many threads work for the calling one, torch's and those of kernels; the others keep theirs.

    This does nothing where `counts_differ` says no.
    """
    for set_count in _setters() or ():
        set_count(count)


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Runs torch's operations on the thread that calls them; `thread_count` stays what it was.

    Other threads of the process keep torch's setting. This does nothing where that cannot be done.
    """
    count = torch.get_num_threads()
    setters = _setters() if count > 1 else None
    if setters is None:
        yield
        return
    set_openmp, set_mkl = setters
    of_mkl = 0  # none of the thread's own
    try:
        _kept.count = count
        set_openmp(1)
        of_mkl = set_mkl(1)
        yield
    finally:
        set_openmp(count)
        set_mkl(of_mkl)
        _kept.count = 0


@cache
def _setters() -> tuple[SetCount, SetCount] | None:
    """Returns what sets the numbers of the calling thread alone, in this torch's OpenMP and in its MKL.

    torch.set_num_threads is neither: threads that start later follow it too. It also gives MKL, which
    computes torch's products, a number of its own, which OpenMP's does not change.
    """
    try:
        library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))))
        set_openmp = library.omp_set_num_threads
        has_mkl = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        set_mkl = library.MKL_Set_Num_Threads_Local if has_mkl else lambda count: 0
    except (StopIteration, OSError, AttributeError):
        return None
    found: list[bool] = []

    def look() -> None:  # on a thread of its own, as its number is changed
        before = torch.get_num_threads()
        set_openmp(before + 1)
        found.append(torch.get_num_threads() == before + 1)
        set_openmp(before)

    thread = Thread(target=look)
    try:
        thread.start()
        thread.join()
    except RuntimeError:  # there are no more threads
        return None
    return (set_openmp, set_mkl) if found == [True] else None
