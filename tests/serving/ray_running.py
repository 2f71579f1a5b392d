"""A service on Ray Serve as a process, with its log, its replicas, and clients that keep it busy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import psutil

from gliclass_fast.serving.ray_environment import free_port

TEXTS = ["The match went to extra time.", "Parliament passed the law.", "Add a pinch of salt.", ""]
LABELS = ["sports", "politics", "cooking"]
PATIENCE = 240  # seconds for what takes ten on a machine that does nothing else


def close(found: Any, wanted: Any) -> bool:
    """Says whether two values of JSON are the same, scores within 1e-4: batches differ in the last bits."""
    if isinstance(wanted, float):
        return isinstance(found, float) and abs(found - wanted) < 1e-4
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    return bool(found == wanted)


class Running:
    """Holds `gliclass-fast serve --ray`, from its first line in the log that says ready."""

    def __init__(self, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.lines: list[str] = []  # of its log
        self._folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short paths
        command = [sys.executable, "-m", "gliclass_fast", "serve", "--ray", "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port), *options],
            env={**os.environ, "RAY_TMPDIR": self._folder, **environment},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for(lambda: self.events("ready"))

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def wait_for(self, what: Callable[[], Any]) -> None:
        end = time.monotonic() + PATIENCE
        while not what():
            assert self.process.poll() is None and time.monotonic() < end, "".join(self.lines[-50:])
            time.sleep(0.05)

    def events(self, event: str) -> list[dict[str, Any]]:
        """Returns the lines of the log about an event."""
        found = [json.loads(line) for line in list(self.lines) if line.startswith("{") and event in line]
        return [line for line in found if line["event"] == event]

    def requests(self, request_id: str) -> list[dict[str, Any]]:
        return [line for line in self.events("request") if line["request_id"] == request_id]

    def total(self, metric: str) -> float:
        """Returns the sum of a metric over the replicas, each of which has a port of its own."""
        found = 0.0
        for pid in self.replicas():
            ports = {
                each.laddr.port
                for each in psutil.Process(pid).net_connections("tcp4")
                if each.status == "LISTEN" and each.laddr.ip == "127.0.0.1"
            }
            for port in ports:
                page = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
                found += float(page.partition(f"\ngliclass_{metric} ")[2].split()[0])
        return found

    def processes(self) -> dict[int, str]:
        """Returns what runs below the command, and how it calls itself."""
        found = {}
        for each in psutil.Process(self.process.pid).children(recursive=True):
            try:
                found[each.pid] = " ".join(each.cmdline())
            except psutil.Error:  # it has ended meanwhile
                continue
        return found

    def replicas(self) -> set[int]:
        return {pid for pid, name in self.processes().items() if name.startswith("ray::ServeReplica")}

    def ask(self, client: httpx2.Client, number: int, texts: int = 1) -> httpx2.Response:
        body = {"texts": [TEXTS[number % len(TEXTS)]] * texts, "labels": LABELS, "threshold": 0.0}
        return client.post(f"{self.address}/gliclass", json=body, timeout=120)

    def end(self) -> None:
        """Ends what still runs."""
        left = [psutil.Process(pid) for pid in self.processes()] if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for each in left:
            if each.is_running():
                each.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Clients:
    """A block in which clients ask without a pause; `fates` counts what became of their requests."""

    def __init__(self, service: Running, clients: int = 16) -> None:
        self._service, self._stop = service, threading.Event()
        with httpx2.Client() as client:
            self._right = [service.ask(client, number).json() for number in range(len(TEXTS))]
        self.fates: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._work, args=(each,)) for each in range(clients)]

    def _work(self, number: int) -> None:
        with httpx2.Client() as client:
            while not self._stop.is_set():
                number += 1
                try:
                    answer = self._service.ask(client, number)
                    right = answer.status_code == 200 and close(
                        answer.json(), self._right[number % len(TEXTS)]
                    )
                    fate = "right" if right else f"{answer.status_code}: {answer.text[:200]}"
                except httpx2.HTTPError as error:
                    fate = repr(error)
                self.fates[fate] += 1

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
