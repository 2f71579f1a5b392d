"""Stress: threads, processes and event loops share pipelines for minutes, and every answer is checked.

python -m tools.stress --minutes 10 [--only forked,spawned] [--record] [--part 1]

The time is shared out among the scenarios. Each runs in a process of its own; one that does not end within a
minute of its time hangs, and is a fault. The exit code is 1 where there are faults.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import count
from multiprocessing import get_context
from random import Random
from typing import Any

from tools.reliability import record

GRACE = 60.0  # seconds
THREADS, PIPELINES, WORKERS, QUESTIONS = 16, 4, 2, 48
WITHIN = 1e-5
WORDS = ("film", "music", "bank", "rocket", "cooking", "great", "dull", "news", "rain", "match")
Question = tuple[list[str], list[str]]
Answers = list[list[tuple[str, float]]]


def questions() -> list[Question]:
    """Returns calls of one to three texts of one to eighty words, with one to eight labels."""
    chance = Random(0)

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 80)))

    return [
        ([text() for _ in range(chance.randint(1, 3))], chance.sample(WORDS, chance.randint(1, 8)))
        for _ in range(QUESTIONS)
    ]


def new_pipeline() -> Any:
    from gliclass_fast import ZeroShotClassificationPipeline, demo

    return ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False, batch_tokens=400)


def ask(pipeline: Any, question: Question) -> Answers:
    texts, labels = question
    found = pipeline(texts, labels, threshold=0.0)
    return [[(each["label"], each["score"]) for each in own] for own in found]


def differ(found: Answers, expected: Answers) -> bool:
    pairs = [
        (one, other)
        for ours, theirs in zip(found, expected, strict=True)
        for one, other in zip(ours, theirs, strict=True)
    ]
    return any(one[0] != other[0] or abs(one[1] - other[1]) > WITHIN for one, other in pairs)


class Round:
    """A scenario asks for some seconds; a round counts the answers, and those that are wrong."""

    def __init__(self, seconds: float) -> None:
        self.pipeline, self.asked = new_pipeline(), questions()
        self.expected = [ask(self.pipeline, question) for question in self.asked]
        self.end = time.monotonic() + seconds
        self.answers = self.wrong = 0

    def numbers(self, first: int = 0) -> Iterator[int]:
        """Yields numbers of questions until the time is over."""
        for number in count(first):
            if time.monotonic() >= self.end:
                return
            yield number % QUESTIONS

    def check(self, number: int, found: Answers) -> None:
        self.answers += 1
        self.wrong += differ(found, self.expected[number])


def _by_threads(ours: Round, pipelines: Sequence[Any], threads: int) -> None:
    def work(first: int) -> list[tuple[int, Answers]]:
        pipeline = pipelines[first % len(pipelines)]
        return [(number, ask(pipeline, ours.asked[number])) for number in ours.numbers(first)]

    with ThreadPoolExecutor(threads) as pool:
        for found in pool.map(work, range(threads)):
            for each in found:
                ours.check(*each)


def threads_on_one(ours: Round) -> None:
    _by_threads(ours, [ours.pipeline], THREADS)


def pipelines_in_threads(ours: Round) -> None:
    _by_threads(ours, [new_pipeline() for _ in range(PIPELINES)], PIPELINES)


def _forked(ours: Round) -> None:
    """Forks again and again; a child answers a few questions, as does the parent in between."""
    fork = get_context("fork")
    for first in ours.numbers():
        found = fork.SimpleQueue()
        asked = [(first + place) % QUESTIONS for place in range(3)]

        def run(found: Any = found, asked: list[int] = asked) -> None:
            found.put([(number, ask(ours.pipeline, ours.asked[number])) for number in asked])

        child = fork.Process(target=run)
        child.start()
        for each in found.get():
            ours.check(*each)
        child.join()
        ours.check(first, ask(ours.pipeline, ours.asked[first]))


def forked(ours: Round) -> None:
    """The parent has called its pipeline on several threads before, so children go on with one."""
    import torch

    torch.set_num_threads(2)
    _forked(ours)


def forked_before_a_call(ours: Round) -> None:
    """The parent has loaded a pipeline and never called it; every child calls it first."""
    ours.pipeline = new_pipeline()
    fork = get_context("fork")
    for first in ours.numbers():
        found = fork.SimpleQueue()
        child = fork.Process(
            target=lambda found=found, first=first: found.put(ask(ours.pipeline, ours.asked[first]))
        )
        child.start()
        ours.check(first, found.get())
        child.join()


_worker: list[Any] = []


def _start(pickled: bytes) -> None:
    _worker[:] = [pickle.loads(pickled), questions()]


def _work(number: int) -> tuple[int, Answers]:
    pipeline, asked = _worker
    return number, ask(pipeline, asked[number])


def spawned(ours: Round) -> None:
    """Workers that are spawned get the pipeline pickled."""
    given = pickle.dumps(ours.pipeline)
    with ProcessPoolExecutor(
        WORKERS, mp_context=get_context("spawn"), initializer=_start, initargs=(given,)
    ) as pool:
        while time.monotonic() < ours.end:
            for each in pool.map(_work, range(QUESTIONS)):
                ours.check(*each)


def in_an_event_loop(ours: Round) -> None:
    """Tasks of an event loop call the pipeline in its executor."""

    async def task(first: int) -> None:
        loop = asyncio.get_running_loop()
        for number in ours.numbers(first):
            ours.check(number, await loop.run_in_executor(None, ask, ours.pipeline, ours.asked[number]))

    async def tasks() -> None:
        await asyncio.gather(*(task(first) for first in range(THREADS)))

    asyncio.run(tasks())


SCENARIOS: dict[str, Callable[[Round], None]] = {
    "16 threads on one pipeline": threads_on_one,
    "4 pipelines in 4 threads": pipelines_in_threads,
    "forked after calls": forked,
    "forked before any call": forked_before_a_call,
    "pickled to spawned workers": spawned,
    "run_in_executor of asyncio": in_an_event_loop,
}


def stress(name: str, seconds: float) -> dict[str, Any]:
    """Runs a scenario in a process of its own; returns how many answers came and were wrong, and a fault."""
    command = [sys.executable, "-m", "tools.stress", "--scenario", name, "--seconds", str(seconds)]
    began, fault = time.monotonic(), None
    found: dict[str, Any] = {"answers": 0, "wrong": 0}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        fault = "hangs"
    else:
        if done.returncode == 0:
            found = json.loads(done.stdout.splitlines()[-1])
        else:
            fault = done.stderr[-2000:]
    return {"scenario": name, **found, "seconds": round(time.monotonic() - began), "fault": fault}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", help=f"Some of: {', '.join(SCENARIOS)}.")
    parser.add_argument("--part", type=int, default=1, help="The number under which a run is written down.")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--scenario", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scenario:
        ours = Round(options.seconds)
        SCENARIOS[options.scenario](ours)
        print(json.dumps({"answers": ours.answers, "wrong": ours.wrong}))
        return
    names = options.only.split(",") if options.only else list(SCENARIOS)
    rows = []
    for name in names:
        rows.append(stress(name, 60 * options.minutes / len(names)))
        print(json.dumps(rows[-1]), flush=True)
    if options.record:
        record("stress", {"part": options.part, "minutes": options.minutes, "rows": rows}, among=("part",))
    sys.exit(any(row["wrong"] or row["fault"] or not row["answers"] for row in rows))


if __name__ == "__main__":
    main()
