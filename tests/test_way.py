"""A text passes few files on its way from the pipeline to its scores; docs/architecture.md names them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import gliclass_fast
from gliclass_fast import ZeroShotClassificationPipeline, demo

ROOT = Path(gliclass_fast.__file__).parent.resolve()
NETWORK = ("models", "kernels")


def test_a_text_passes_twelve_files() -> None:
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    pipeline("The match went to extra time.", ["sports", "politics"])
    passed: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(ROOT) and file.relative_to(ROOT).parts[0] not in NETWORK:
            passed.add(str(file.relative_to(ROOT)))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        pipeline("The match went to extra time.", ["sports", "politics"])
    finally:
        sys.setprofile(before)
    named = ["arguments", "labels", "readers", "results", "tokenizer"]
    assert passed == {
        "pipeline/__init__.py", "engine/engine.py", "batch.py",
        *(f"text/{name}.py" for name in named),
        *(f"runtime/{name}.py" for name in ("loaded", "origin", "packing", "transfer")),
    }  # fmt: skip
