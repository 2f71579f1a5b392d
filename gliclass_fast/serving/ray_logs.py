"""The log of a service on Ray Serve: what the replicas log comes to the process that started them.

Ray would print it too, but with a prefix that makes it no JSON. Lines go through a socket of this machine,
those of a moment together: to send and to print each alone took a fifth of what a request costs. Lines for
which there is no room are lost, so that a log never holds up an answer, and so are the last ones of a replica
that is killed.
"""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from threading import Thread, Timer

from gliclass_fast.serving.logs import JsonLines, use_json
from gliclass_fast.serving.ray_replica import Logs

LONGEST_LINE = 64 * 1024  # bytes; and of what is sent at a time
MOMENT = 0.02  # seconds that a line waits for others, unless it is a warning


class ReplicaLines:
    """Writes the lines that replicas send to this process's standard error."""

    def __init__(self, folder: Path) -> None:
        """Listens at a socket in a folder."""
        self.path = str(folder / "logs.sock")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._thread = Thread(target=self._work, name="gliclass-logs", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends after the lines that have come."""
        self._socket.shutdown(socket.SHUT_RD)
        self._thread.join()
        self._socket.close()

    def _work(self) -> None:
        while lines := self._socket.recv(LONGEST_LINE):
            sys.stderr.write(lines.decode())
            sys.stderr.flush()


class _ToSocket(logging.Handler):
    """Sends every record as one line of JSON."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._lines, self._bytes = list[bytes](), 0  # that wait
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._path = path
        self.setFormatter(JsonLines())

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a line soon, or loses it."""
        record.pid = record.process
        line = self.format(record).encode()[: LONGEST_LINE - 1] + b"\n"
        if self._bytes + len(line) > LONGEST_LINE:
            self.flush()
        self._lines.append(line)
        self._bytes += len(line)
        if record.levelno >= logging.WARNING:
            self.flush()
        elif len(self._lines) == 1:
            self._flush_soon()

    def _flush_soon(self) -> None:
        timer = Timer(MOMENT, self.flush)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # There are no more threads.
            self.flush()

    def flush(self) -> None:
        """Sends the lines that wait."""
        self.acquire()  # the handler's own lock, which may be held already
        try:
            if self._lines:
                self._socket.sendto(b"".join(self._lines), self._path)
        except OSError:
            return
        finally:
            self._lines, self._bytes = [], 0
            self.release()


def use_json_of_replica(logs: Logs) -> None:
    """Writes everything that a replica logs as JSON, each line with the id of its process."""
    logging.setLogRecordFactory(logging.LogRecord)  # Ray's adds the time once more, to every record
    use_json(logs.level)
    if logs.socket is not None:
        logging.basicConfig(level=logs.level.upper(), handlers=[_ToSocket(logs.socket)], force=True)
