"""What it costs to follow a model in training: the time of a refresh, and of a look that finds no change."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from gliclass_fast import ZeroShotClassificationPipeline
from gliclass_fast.bench import cases

TEXT, LABELS = "The match went to extra time. " * 20, ["sports", "politics", "cooking"]


def measure(name: str, repeats: int) -> dict[str, float]:
    """Returns medians on the CPU, in milliseconds, for a `gliclass` model of random weights."""
    model, tokenizer = cases.load(name)
    pipeline = ZeroShotClassificationPipeline(model, tokenizer, device="cpu", progress_bar=False)

    def timed(run: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
        samples = []
        for _ in range(repeats):
            before()
            began = time.perf_counter()
            run()
            samples.append(1e3 * (time.perf_counter() - began))
        return round(median(samples[1:]), 3)

    @torch.no_grad()
    def step() -> None:
        for parameter in model.parameters():
            parameter.mul_(1.0)

    def call() -> None:
        pipeline(TEXT, LABELS)

    began = time.perf_counter()
    pipeline.refresh()
    first = round(1e3 * (time.perf_counter() - began), 3)
    call()
    return {
        "the first refresh, ms": first,
        "a look without a change, ms": timed(pipeline.model.origin.changed),
        "a refresh, ms": timed(pipeline.refresh),
        "a call, ms": timed(call),
        "a call after a step, ms": timed(call, before=step),
    }
