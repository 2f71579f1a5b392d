"""A soak: clients ask for minutes while replicas are killed and deployed again, and every answer is checked.

python -m gliclass_fast.bench.serving_soak --minutes 10 [--kills 10] [--alone] [--json FILE]

--json: writes what was found into a file, which keeps what it holds of the other form.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.bench import cases
from gliclass_fast.bench.load import burst, closed_loop
from gliclass_fast.bench.load_questions import Question, Target, drawn, scored
from gliclass_fast.bench.serving_process import PAGE, RESIDENT, STARTED, Server, title, tree
from gliclass_fast.bench.timing import machine
from gliclass_fast.serving.ray_environment import free_port

CLIENTS = 16
REPLICA = "ray::ServeReplica"  # how Ray names the process of a replica
WARM_UP = 0.3  # of the time, before memory counts
LOOKS = 100  # at the processes
MOST_GROWN = 0.01  # of all memory that is held from the warm-up to the end


def replicas(server: Server) -> list[int]:
    """Returns the processes of the replicas, the oldest first."""
    found = {pid: int(fields[STARTED]) for pid, fields in tree(server.pid).items()}
    return sorted((pid for pid in found if title(pid).startswith(REPLICA)), key=lambda pid: found[pid])


@dataclass(slots=True)
class Soak:
    """A soak has a running server, and notes who was killed and how much memory every process held."""

    server: Server
    minutes: float
    kills: int = 0
    redeploys: bool = False  # once, at half of the time
    killed: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)  # replicas when the new deployment began
    after: list[int] = field(default_factory=list)
    memory: dict[int, list[tuple[float, int]]] = field(default_factory=dict)  # by process: when, bytes
    names: dict[int, str] = field(default_factory=dict)

    def run(self, target: Target, questions: Sequence[Question], clients: int = CLIENTS) -> dict[str, Any]:
        """Returns what became of the requests, of the replicas and of the memory, as JSON."""

        async def everything() -> Any:
            load = asyncio.create_task(closed_loop(target, questions, clients, 60 * self.minutes))
            fates = [asyncio.create_task(fate) for fate in (self._kill(), self._deploy(), self._look())]
            tally = await load
            for fate in fates:
                fate.cancel()
            return tally, await asyncio.gather(*fates, return_exceptions=True)

        tally, ends = asyncio.run(everything())
        failures = [repr(each) for each in ends if isinstance(each, Exception)]
        return {
            "minutes": self.minutes, "clients": clients, "requests": tally.statuses.total() + tally.lost,
            "right": tally.right, "errors": tally.errors, "wrong": tally.wrong, "lost": tally.lost,
            "refused": tally.refused, "faults": [*tally.faults, *failures],
            "p50_ms": round(1e3 * tally.percentile(0.5)), "slowest_ms": round(1e3 * tally.percentile(1.0)),
            "killed": len(self.killed), "replicas_before": self.before, "replicas_after": self.after,
            "grown": self.grown(),
        }  # fmt: skip

    async def _kill(self) -> None:
        """Kills the youngest replica at even intervals, so that the oldest one can show what it keeps."""
        for _ in range(self.kills):
            await asyncio.sleep(60 * self.minutes / (self.kills + 1))
            if found := replicas(self.server):
                os.kill(found[-1], signal.SIGKILL)
                self.killed.append(found[-1])

    async def _deploy(self) -> None:
        """Makes the server replace its replicas, as it does at SIGHUP."""
        if self.redeploys:
            await asyncio.sleep(30 * self.minutes)
            self.before, done = replicas(self.server), self.server.count("redeployed")
            self.server.send(signal.SIGHUP)
            await self.server.until("redeployed", done + 1)
            self.after = replicas(self.server)

    async def _look(self) -> None:
        while True:
            now = time.monotonic()
            for pid, fields in tree(self.server.pid).items():
                self.names.setdefault(pid, title(pid))
                self.memory.setdefault(pid, []).append((now, PAGE * int(fields[RESIDENT])))
            await asyncio.sleep(60 * self.minutes / LOOKS)

    def grown(self) -> list[dict[str, Any]]:
        """Returns a row per process that lived all the time, with MiB after the warm-up and at the end."""
        rows = []
        times = [when for seen in self.memory.values() for when, _ in seen]
        first, last = min(times), max(times)
        begins, tenth = first + WARM_UP * (last - first), 0.1 * (last - first)  # whose median counts
        for pid, seen in self.memory.items():
            early = [held for when, held in seen if begins <= when <= begins + tenth]
            late = [held for when, held in seen if last - tenth <= when]
            if seen[0][0] == first and early and late:
                held = median(early) / 2**20, median(late) / 2**20
                share = held[1] / held[0] - 1 if held[0] else 0.0
                facts = {"MiB": [round(each, 1) for each in held], "share": round(share, 4)}
                rows.append({**facts, "process": self.names[pid]})
        return sorted(rows, key=lambda row: -row["MiB"][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--alone", action="store_true", help="without Ray: nothing is killed")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "gliclass_fast", "serve", "--port", str(port), "--device", "cpu"]
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    questions = scored(drawn(256, True, cases.demo_tokenizer()), pipeline)
    if not options.alone:
        command += ["--ray", "--replicas", "2"]
    with Server(command, port, event="ready") as server:
        asyncio.run(burst(Target(port), questions[:CLIENTS]))
        soak = Soak(server, options.minutes, 0 if options.alone else options.kills, not options.alone)
        found = soak.run(Target(port), questions)
    for row in (grown := found.pop("grown")):
        print(json.dumps(row))
    before, after = (sum(row["MiB"][place] for row in grown) for place in (0, 1))
    found["grown"] = round(after / before - 1, 4)
    print(json.dumps(found, indent=1))
    if options.json is not None:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        known["one process" if options.alone else "two replicas"] = {**found, "machine": machine()}
        options.json.write_text(json.dumps(known, indent=1) + "\n")
    survived = not found["errors"] and not found["faults"] and found["killed"] == soak.kills
    replaced = not set(soak.before) & set(soak.after)
    sys.exit(0 if survived and replaced and found["grown"] < MOST_GROWN else 1)


if __name__ == "__main__":
    main()
