"""The lock of an output: one job at a time writes it."""

from __future__ import annotations

import errno
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without locks


def check_place(output: Path) -> None:
    """Raises ValueError where there is no place for an output."""
    try:
        output.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"--output {output} is a link that leads to itself") from None
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: there is no folder {output.parent}")


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keeps an output from other jobs, on this machine and on those that share its folder and its locks.

    The system itself holds the lock of a file beside the output, and lets go of it where a job is killed. The
    file's name begins with a dot, as nothing reads such a file as data; it goes when the job ends. Where the
    file system has no locks, a warning says so.

    Raises ValueError, at once, where another job writes the output, and where the file cannot be opened.
    """
    place = output.resolve()  # a link and what it leads to are one output
    path = place.with_name(f".{place.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        while not path.exists():  # older versions of filelock may hold a file that another job just removed
            lock.release()
            lock.acquire(timeout=0)
    except Timeout:
        _check_folder(output, place.parent)
        raise ValueError(
            f"another job writes {output}: wait until it has ended, or give another --output"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            reason = error.strerror or error
            raise ValueError(f"{output} cannot be locked by the file {path}: {reason}") from None
        logger.warning("the folder of %s has no locks: no other job must write it meanwhile", output)
    try:
        yield
    finally:
        with suppress(OSError):  # a file that is left stops nobody
            path.unlink()  # while it is locked
        lock.release()


def _check_folder(output: Path, folder: Path) -> None:
    """Raises ValueError where a folder takes no file, of which filelock may say that its lock is held."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"--output {output}: no file can be written into {folder}: {reason}") from None
