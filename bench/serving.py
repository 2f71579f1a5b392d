"""The service under load, beside the library itself and beside the reference's own deployment, on the CPU.

Every answer is checked against the library's own scores. The contenders take turns in each round, and a
figure is the median of the rounds. The demo checkpoint answers texts of 16 to 112 words with 6 labels each.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.bench import cases, serving_tasks
from gliclass_fast.bench.load import Tally, burst
from gliclass_fast.bench.load_questions import Question, Target, drawn, scored
from gliclass_fast.bench.peers import deployment
from gliclass_fast.bench.serving_process import Server
from gliclass_fast.bench.serving_tasks import CLIENTS, IN_FLIGHT, LEAVERS, Load
from gliclass_fast.serving.ray_environment import free_port

SECONDS = 12.0  # of each load
TURNS = 4  # stretches of the closed loads, which take turns, so that a host that slows down slows all alike
QUESTIONS = 256
PEER_TOLERANCE = 1e-3  # of the reference's scores, which depend a little on what shares their batch
SHARE, OVERLOAD = 0.7, 2.0  # of saturation
CODE = [sys.executable, "-m"]
SERVE = "gliclass-fast serve"
COMPARED = (
    "the library itself, batches of 32",
    SERVE,
    f"{SERVE}, equal labels",
    f"{SERVE}, at 70 % of saturation",
    f"{SERVE}, 2x overload",
)
CPU = "CPU a request, ms"
NULL = "CPU a request of Ray over FastAPI, engine that does nothing"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar is what a figure must reach, or must not exceed."""

    value: float
    at_most: bool = False

    def met(self, found: float) -> bool:
        return found <= self.value if self.at_most else found >= self.value


BARS = {
    "requests/s over the library itself": Bar(0.90),
    "CPU a text over the library itself": Bar(1.35, at_most=True),
    "mean batch over clients": Bar(0.4),
    "mixed labels over equal ones, requests/s": Bar(0.95),
    "p99 over p50 at 70 % of saturation": Bar(4, at_most=True),
    "2x overload: right answers over saturation": Bar(0.90),
    "2x overload: neither right nor 429 with Retry-After": Bar(0, at_most=True),
    "SIGTERM with 48 in flight: lost": Bar(0, at_most=True),
    "batches run for clients that left": Bar(2, at_most=True),
    "seconds until ready": Bar(10, at_most=True),
    "errors and wrong answers": Bar(0, at_most=True),
    "requests/s over the reference's deployment": Bar(1.9),
    NULL: Bar(2.2, at_most=True),
}


@dataclass(slots=True)
class Found:
    """Collects the figures and the loads of all rounds."""

    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    contenders: dict[str, list[dict[str, float]]] = field(default_factory=lambda: defaultdict(list))
    faults: list[str] = field(default_factory=list)

    def add(self, figure: str, value: float) -> None:
        self.figures[figure].append(round(value, 4))

    def load(self, name: str, load: Load) -> None:
        """Notes what a contender answered, and what that cost it."""
        tally = load.tally
        self.contenders[name].append(
            {
                "requests/s": round(tally.rate, 2),
                **({CPU: round(load.cpu_ms, 3)} if load.cpu else {}),
                **({"mean batch": round(load.mean_batch, 3)} if load.batches else {}),
                "p50, ms": round(1e3 * tally.percentile(0.5), 1),
                "p99, ms": round(1e3 * tally.percentile(0.99), 1),
                "refused": tally.refused,
                "client's CPU, ms": round(1e3 * tally.client_cpu / max(tally.right, 1), 3),
            }
        )
        self.check(name, tally)

    def check(self, name: str, tally: Tally) -> None:
        """Counts what nobody should see."""
        self.add("errors and wrong answers", tally.errors)
        self.faults += [f"{name}: {fault}" for fault in tally.faults]

    def result(self) -> dict[str, Any]:
        """Returns the medians, as JSON; of errors it is the sum."""
        rows = []
        for figure, bar in BARS.items():
            if rounds := self.figures.get(figure):
                value = sum(rounds) if figure == "errors and wrong answers" else median(rounds)
                facts = {"bar": bar.value, "at_most": bar.at_most, "value": value, "met": bar.met(value)}
                rows.append({"figure": figure, **facts, "rounds": rounds})
        contenders = {
            name: {key: median(each[key] for each in loads) for key in loads[0]}
            for name, loads in self.contenders.items()
        }
        return {"figures": rows, "contenders": contenders, "faults": self.faults}


@dataclass(slots=True)
class Bench:
    """Measures servers on the CPU with the demo checkpoint. seconds: of each load."""

    seconds: float = SECONDS
    count: int = QUESTIONS
    step: Callable[[str], None] = lambda name: None
    found: Found = field(default_factory=Found)
    pipeline: Any = field(init=False)
    mixed: list[Question] = field(init=False)
    equal: list[Question] = field(init=False)

    def __post_init__(self) -> None:
        """Finds the scores that the servers must give."""
        self.step("scoring texts")
        tokenizer = cases.demo_tokenizer()
        self.pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
        self.mixed, self.equal = (
            scored(drawn(self.count, mixed, tokenizer), self.pipeline) for mixed in (True, False)
        )

    def round(self, number: int) -> None:
        """Starts a server, puts every kind of load on it, and ends it while requests are in flight."""
        self.step(f"round {number + 1}")
        with server(serve_command) as running:
            target = Target(running.port)
            self.found.add("seconds until ready", running.ready_after)
            asyncio.run(burst(target, self.mixed[:CLIENTS]))
            self._compare(running, target, number)
            self._leave(running, target)

    def _compare(self, running: Server, target: Target, number: int) -> None:
        """Puts loads on the library and the server in turn, and between the turns at a rate of requests."""
        direct, mixed, equal, calm, full = loads = [Load() for _ in range(5)]
        stretch = self.seconds / TURNS
        for turn in range(TURNS):
            direct.add(serving_tasks.direct(self.pipeline, self.mixed, stretch))
            mixed.add(serving_tasks.loaded(running, target, self.mixed, stretch))
            equal.add(serving_tasks.loaded(running, target, self.equal, stretch))
            if turn == TURNS // 2 - 1:  # a queue takes its time to build up, so that these run unbroken
                for load, share in ((calm, SHARE), (full, OVERLOAD)):
                    rate = share * mixed.tally.rate
                    load.tally.add(serving_tasks.paced(target, self.mixed, rate, self.seconds, number))
        for name, load in zip(COMPARED, loads, strict=True):
            self.found.load(name, load)
        add, rate = self.found.add, mixed.tally.rate
        add("requests/s over the library itself", rate / direct.tally.rate)
        add("CPU a text over the library itself", mixed.cpu_ms / direct.cpu_ms)
        add("mean batch over clients", mixed.mean_batch / CLIENTS)
        add("mixed labels over equal ones, requests/s", rate / equal.tally.rate)
        add("p99 over p50 at 70 % of saturation", calm.tally.percentile(0.99) / calm.tally.percentile(0.5))
        add("2x overload: right answers over saturation", full.tally.rate / rate)
        unkind = full.tally.errors + full.tally.without_retry_after
        add("2x overload: neither right nor 429 with Retry-After", unkind)

    def _leave(self, running: Server, target: Target) -> None:
        """Lets clients leave, then the server, which it has to be able to do."""
        ran = serving_tasks.abandon(running, target, self.mixed[:LEAVERS])
        self.found.add("batches run for clients that left", ran)
        ended = asyncio.run(serving_tasks.end_in_flight(running, target, self.mixed[:IN_FLIGHT]))
        lost = IN_FLIGHT - ended.right + (running.wait() != 0)
        self.found.check("SIGTERM", ended)
        self.found.add("SIGTERM with 48 in flight: lost", lost)

    def peer(self, repeats: int) -> None:
        """Measures the reference's deployment and our server in turn, while both are there."""
        self.step("starting the reference's deployment")
        with server(serve_command) as ours, server(peer_command, "/-/healthz") as theirs:
            targets = Target(ours.port), Target(theirs.port, tolerance=PEER_TOLERANCE)
            for target in targets:  # the deployment takes connections before its replica is there
                asyncio.run(burst(target, self.mixed[:CLIENTS]))
            for number in range(repeats):
                self.step(f"beside the reference's deployment, round {number + 1}")
                mine = serving_tasks.loaded(ours, targets[0], self.mixed, self.seconds)
                other = serving_tasks.loaded(theirs, targets[1], self.mixed, self.seconds, counted=False)
                self.found.load(f"{SERVE}, beside Ray", mine)
                self.found.load(f"{deployment.NAME} on Ray", other)
                ratio = mine.tally.rate / other.tally.rate
                self.found.add("requests/s over the reference's deployment", ratio)

    def null(self, repeats: int) -> None:
        """Measures the cost of a request where the engine does nothing, in one process and on Ray."""
        self.step("an engine that does nothing")
        one = self.mixed[:1]  # whose answer is repeated
        with server(null_command) as alone, server(null_on_ray_command) as on_ray:
            for each in (alone, on_ray):
                asyncio.run(burst(Target(each.port), one))
            for number in range(repeats):
                self.step(f"an engine that does nothing, round {number + 1}")
                costs = []
                for name, each in (("FastAPI", alone), ("Ray", on_ray)):
                    seconds = self.seconds / 2
                    load = serving_tasks.loaded(each, Target(each.port), one, seconds, counted=False)
                    self.found.load(f"{name}, engine that does nothing", load)
                    costs.append(load.cpu_ms)
                self.found.add(NULL, costs[1] / costs[0])


def server(command: Callable[[int], list[str]], ready: str = "/ready") -> Server:
    """Returns a server on a free port of this machine, to be started."""
    port = free_port()
    return Server(command(port), port, ready)


def serve_command(port: int) -> list[str]:
    return [*CODE, "gliclass_fast", "serve", "--port", str(port), "--device", "cpu"]


def null_command(port: int) -> list[str]:
    return [*CODE, "gliclass_fast.bench.serving_null", str(port)]


def null_on_ray_command(port: int) -> list[str]:
    return [*null_command(port), "--ray"]


def peer_command(port: int) -> list[str]:
    return deployment.command(str(demo.PATH), port, torch.get_num_threads())


def measure(repeats: int, step: Callable[[str], None] = lambda name: None) -> dict[str, Any]:
    """Returns a row per figure with its bar and its rounds, and the medians of every contender."""
    bench = Bench(step=step)
    for number in range(repeats):
        bench.round(number)
    if importlib.util.find_spec("ray") is not None:
        bench.null(repeats)
        bench.peer(repeats)
    return bench.found.result()
