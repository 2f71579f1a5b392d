"""A server in a process of its own: this starts and stops it, and reads what it and its children cost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# fields of /proc/PID/stat behind the name of the command
PARENT, TIMES, STARTED, RESIDENT = 1, slice(11, 15), 19, 21


def processes() -> dict[int, list[str]]:
    """Returns the fields of /proc/PID/stat behind the command's name, of every process."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                line = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue  # It has ended meanwhile.
            found[int(folder.name)] = line.rpartition(")")[2].split()
    return found


def tree(root: int) -> dict[int, list[str]]:
    """Returns the fields of a process and of all that descend from it."""
    known = processes()
    found, grown = {root} & known.keys(), True
    while grown:
        children = {pid for pid, fields in known.items() if int(fields[PARENT]) in found}
        grown = not children <= found
        found |= children
    return {pid: known[pid] for pid in found}


def title(pid: int) -> str:
    """Returns what a process calls itself; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


class Server:
    """A server is started by a command, and ends with the block.

    It is ready when a page answers with status 200 and, where one is given, an event stands in its log.
    Raises RuntimeError with its last words where it does not become ready.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        ready: str = "/ready",
        event: str | None = None,
        environment: Mapping[str, str] | None = None,
        patience: float = 180.0,
    ) -> None:
        self.command, self.port, self.patience = list(command), port, patience
        self.ready_after = 0.0  # seconds
        self._ready, self._event = ready, event
        self._environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Server:
        began = time.perf_counter()
        self._words = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            self.command, stdout=self._words, stderr=subprocess.STDOUT, env=self._environment
        )
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.perf_counter() - began > self.patience:
                words = self.last_words()
                self.__exit__(None, None, None)
                state = "ended" if ended else f"was not ready within {self.patience:.0f} s"
                raise RuntimeError(f"{' '.join(self.command)} {state}; its last words:\n{words}")
            time.sleep(0.05)
        self.ready_after = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the process and everything that it started, gently first."""
        started = tree(self.pid)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                started |= tree(self.pid)
        left = processes()
        for pid, fields in started.items():
            if pid in left and left[pid][STARTED] == fields[STARTED]:  # It is still the same process.
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._words.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _answers(self) -> bool:
        try:
            self.get(self._ready)
        except OSError:  # refused, reset, or a status that says so
            return False
        return self._event is None or self.count(self._event) > 0

    def get(self, path: str) -> str:
        """Returns the body of a page; raises OSError where there is none."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as page:
            return str(page.read().decode())

    def printed(self) -> bytes:
        """Returns all that it and its children printed."""
        return os.pread(self._words.fileno(), os.fstat(self._words.fileno()).st_size, 0)

    def last_words(self, lines: int = 20) -> str:
        """Returns the end of what it printed."""
        return "\n".join(self.printed().decode(errors="replace").splitlines()[-lines:])

    def count(self, event: str) -> int:
        """Returns how often an event stands in its log of JSON lines."""
        return self.printed().count(json.dumps({"event": event})[1:-1].encode())

    async def until(self, event: str, times: int) -> None:
        """Waits until an event stands so often in its log; raises TimeoutError when patience ends."""
        ends = time.perf_counter() + self.patience
        while self.count(event) < times:
            if time.perf_counter() > ends:
                raise TimeoutError(f"no {event!r} within {self.patience:.0f} s:\n{self.last_words()}")
            await asyncio.sleep(0.5)

    def cpu(self) -> float:
        """Returns the seconds of processor time that it and its children took so far."""
        return sum(sum(map(int, fields[TIMES])) for fields in tree(self.pid).values()) / TICKS

    def resident(self) -> int:
        """Returns the bytes of memory that it and its children hold."""
        return PAGE * sum(int(fields[RESIDENT]) for fields in tree(self.pid).values())

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, as an operator does."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Returns its exit status; raises subprocess.TimeoutExpired where it does not end."""
        return self._process.wait(seconds)


def metric(page: str, name: str) -> float:
    """Returns the value of a metric on a page in Prometheus' form, summed over its labels."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)
