"""The lock of an output: one job at a time writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keeps an output from other jobs, on this machine and on those that share its folder.

    The system itself holds the lock of a file beside the output, and lets go of it where a job is killed. The
    file's name begins with a dot, as nothing reads such a file as data; it goes when the job ends.

    Raises ValueError, at once, where another job writes the output, and where nothing can be written there.
    """
    place = output.resolve()  # a link and what it leads to are one output
    path = place.with_name(f".{place.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another job writes {output}: wait until it has ended, or give another --output"
        ) from None
    except OSError as error:
        raise ValueError(f"{output}: no file can be made beside it: {error.strerror or error}") from None
    try:
        yield
    finally:
        with suppress(OSError):  # a file that is left stops nobody
            path.unlink()  # while it is locked: whoever has opened it by now is refused
        lock.release()
