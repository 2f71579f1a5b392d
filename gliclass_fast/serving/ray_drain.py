"""The end of replicas: each listens at a socket of this machine until all that waited is answered.

Ray takes the address away before it stops a replica, so that a client would find nothing there. A replica
that drains first answers with status 503, as one process does.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

SUFFIX = ".replica"
_tasks: set[asyncio.Task[None]] = set()  # an event loop keeps no task alive


def listen_for_end(folder: Path, drain: Callable[[], Awaitable[None]]) -> None:
    """Drains at a message to a socket in a folder, which goes away then. It is called in the event loop."""
    path = folder / f"{os.getpid()}{SUFFIX}"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(path))
    loop = asyncio.get_running_loop()

    async def end() -> None:
        await drain()
        path.unlink()

    def told() -> None:
        loop.remove_reader(listener)
        listener.close()
        task = loop.create_task(end())
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    loop.add_reader(listener, told)


def drain_all(folder: Path, seconds: float) -> None:
    """Tells every replica of this machine to end, and waits until all have drained, at most so long."""
    waiting = [path for path in folder.glob(f"*{SUFFIX}") if _told(path)]
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(path.exists() and _lives(path) for path in waiting):
        time.sleep(0.02)


def _told(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        try:
            sender.sendto(b"end", str(path))
        except OSError:  # it died, or drains already
            return False
    return True


def _lives(path: Path) -> bool:
    return Path("/proc", path.stem).exists()
