"""CallLock: the calls of a pipeline run one after another, and none within another."""

from __future__ import annotations

from threading import Lock, get_ident


class CallLock:
    """A lock whose thread must not take it again, as what it guards is in between two states then.

    A strategy, a signal handler and a finalizer of Python run in the thread of the call that they interrupt.
    """

    def __init__(self) -> None:
        self._lock, self._owner = Lock(), 0

    def __enter__(self) -> None:
        """Waits for other threads; raises RuntimeError where this thread has the lock."""
        if self._owner == get_ident() and self._lock.locked():
            raise RuntimeError("a call of this pipeline is under way in this thread: do this after it")
        self._lock.acquire()
        self._owner = get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = 0
        self._lock.release()
