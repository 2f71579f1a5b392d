"""int8 on a CPU beside float32: the time of both, and how many decisions change.

    python examples/int8.py [MODEL]

What it gains depends on the processor, and is most with VNNI instructions.
"""

from __future__ import annotations

import sys
import time

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo

TEXTS = [
    "I would watch this film again tomorrow.",
    "The plot makes no sense and the sound is bad.",
    "Book a table for four at a pizza place.",
    "Will it rain in Lisbon on Sunday?",
] * 4
LABELS = ["positive review", "negative review", "restaurant", "weather"]


def scores(name: str, quantization: str | None) -> tuple[list[float], float]:
    """All scores, and the seconds they took once everything was warm."""
    model = GLiClassModel.from_pretrained(name, device="cpu", quantization=quantization)
    pipeline = ZeroShotClassificationPipeline(model, name, device="cpu", progress_bar=False)
    pipeline(TEXTS, LABELS, threshold=0)
    start = time.perf_counter()
    found = pipeline(TEXTS, LABELS, threshold=0)
    return [each["score"] for row in found for each in row], time.perf_counter() - start


def main(name: str) -> None:
    plain, seconds = scores(name, None)
    rounded, fewer = scores(name, "int8")
    pairs = list(zip(plain, rounded, strict=True))
    changed = sum((before >= 0.5) != (after >= 0.5) for before, after in pairs)
    largest = max(abs(before - after) for before, after in pairs)
    print(f"float32 {seconds:.2f} s, int8 {fewer:.2f} s")
    print(f"{changed} of {len(pairs)} decisions differ; the largest difference of a score is {largest:.3f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(demo.PATH))
