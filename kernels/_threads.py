"""Threads of a CPU: the kernels have their own, as many as torch has, and torch's can stay out of their way.

OpenMP's threads, which are torch's, stay awake for a while after each of torch's operations, and keep the
kernels' threads from the cores. A forked process has none of them, and an operation that needs them there
waits for ever. Where nearly all work is that of our kernels, torch does better with one thread.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import Lock, Thread, local

import torch

Count = Callable[[], int]
SetCount = Callable[[int], int]


class _Kept(local):
    """Holds how many threads the kernels may use for the calling one, where that is not torch's number."""

    count: Count | None = None


_kept = _Kept()


def thread_count() -> int:
    """Returns how many threads a kernel may use: as many as torch, or as it had before it was alone.

    Within `SharedThreads.part` it is the part of the calling thread.
    """
    return torch.get_num_threads() if _kept.count is None else _kept.count()


@contextmanager
def kernels_on_one_thread() -> Iterator[None]:
    """Runs kernels on the thread that calls them."""
    before, _kept.count = _kept.count, lambda: 1
    try:
        yield
    finally:
        _kept.count = before


def torch_on_one_thread() -> AbstractContextManager[None]:
    """Runs torch's operations on the thread that calls them; `thread_count` stays what it was.

    Other threads of the process keep torch's setting. This does nothing where that cannot be done.
    """
    count = torch.get_num_threads()
    return _counts(1, _kept.count or (lambda: count)) if count > 1 else nullcontext()


class SharedThreads:
    """Shares as many threads as torch has among callers of the kernels: each has the same part.

    Kernels follow the part from one call to the next, as others begin and end. What torch computes itself
    keeps the part that its caller began with.
    """

    def __init__(self) -> None:
        self._total, self._callers, self._changing = torch.get_num_threads(), 0, Lock()
        self._part = self._total

    @property
    def can_be_shared(self) -> bool:
        """Returns whether there are several, and whether a caller can have a number of its own."""
        return self._total > 1 and _setters() is not None

    @contextmanager
    def part(self) -> Iterator[None]:
        """Counts the calling thread as one of those that share; within, it has its part."""
        self._change(1)
        try:
            with _counts(self._part, lambda: self._part):
                yield
        finally:
            self._change(-1)

    def _change(self, callers: int) -> None:
        with self._changing:
            self._callers += callers
            self._part = math.ceil(self._total / max(self._callers, 1))


@contextmanager
def _counts(of_torch: int, of_kernels: Count) -> Iterator[None]:
    """Sets the numbers of the calling thread, where that can be done."""
    if (setters := _setters()) is None:
        yield
        return
    set_openmp, set_mkl = setters
    before, kept = torch.get_num_threads(), _kept.count
    of_mkl = 0  # none of the thread's own
    try:
        _kept.count = of_kernels
        set_openmp(of_torch)
        of_mkl = set_mkl(of_torch)
        yield
    finally:
        set_openmp(before)
        set_mkl(of_mkl)
        _kept.count = kept


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
