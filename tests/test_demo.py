"""The demo checkpoint is right about the sentences that `make demo` shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gliclass_fast import ZeroShotClassificationPipeline, demo

MAKEFILE = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
LABELS = re.findall(r'--labels "(.*?)"', MAKEFILE)[0].split(",")
EXPECTED = {
    "A NASA rover has found organic molecules in a Martian crater.": "space exploration",
    "The central bank raised interest rates to slow inflation.": "banking and finance",
    "Add this song to my workout playlist, please.": "music",
    "What a delightful film, I smiled from start to finish.": "positive review",
}


@pytest.mark.parametrize("text", EXPECTED)
def test_the_right_label_is_first_and_likely(text: str) -> None:
    assert f'"{text}"' in MAKEFILE
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    found = pipeline(text, LABELS)[0]
    best = max(found, key=lambda each: each["score"])
    assert best["label"] == EXPECTED[text] and best["score"] >= 0.5
