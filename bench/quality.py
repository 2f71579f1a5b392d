"""Decisions on labelled sentences: the reference decides in float32, one text at a time, and the engine in
every precision.

The folder of data holds banking77/test.csv, snips/validate.csv, ag_news/sample.csv and sst2/test.txt.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline

Rows = list[tuple[str, str]]  # A row is (text, true label).
NEWS = ("world politics", "sports", "business", "science and technology")


def _column(file: str, label: str) -> Callable[[Path], Rows]:
    def read(data: Path) -> Rows:
        with (data / file).open(encoding="utf-8", newline="") as opened:
            return [(row["text"], spoken_name(row[label])) for row in csv.DictReader(opened)]

    return read


def spoken_name(label: str) -> str:
    """Writes a label as words: `AddToPlaylist` -> `add to playlist`, `card_arrival` -> `card arrival`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).replace("_", " ").lower()


def _news(data: Path) -> Rows:
    with (data / "ag_news/sample.csv").open(encoding="utf-8", newline="") as opened:
        return [(f"{title}. {text}", NEWS[int(kind) - 1]) for kind, title, text in csv.reader(opened)]


def _reviews(data: Path) -> Rows:
    lines = (data / "sst2/test.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return [(line[2:].strip(), ("negative", "positive")[int(line[0])]) for line in lines if line[2:].strip()]


SETS: dict[str, Callable[[Path], Rows]] = {
    "banking77 test": _column("banking77/test.csv", "category"),
    "SNIPS validation": _column("snips/validate.csv", "intent"),
    "AG News sample": _news,
    "SST-2 test": _reviews,
}


def precisions(device: str) -> dict[str, dict[str, Any]]:
    """Maps a precision to its arguments of `from_pretrained`."""
    dtypes = {name: {"dtype": getattr(torch, name)} for name in ("float32", "float16", "bfloat16")}
    return {**dtypes, "int8": {"quantization": "int8"}} if device == "cpu" else dtypes


def measure(
    data: Path, folder: str, device: str, rows: int | None, step: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Yields a row per set and precision.

    rows: only so many texts of a set are read, spread evenly. step: it is called with what is next.
    """
    import gliclass

    model: Any = gliclass.GLiClassModel.from_pretrained(folder, dtype=torch.float32)
    settings: dict[str, Any] = {"device": device, "progress_bar": False}
    reference = gliclass.ZeroShotClassificationPipeline(model, folder, **settings)
    engines = {
        name: ZeroShotClassificationPipeline(
            GLiClassModel.from_pretrained(folder, device=device, **arguments), folder, **settings
        )
        for name, arguments in precisions(device).items()
    }
    for name, read in SETS.items():
        labelled = read(data)
        labels = sorted({label for _, label in labelled})
        if rows is not None and rows < len(labelled):
            labelled = [labelled[number * len(labelled) // rows] for number in range(rows)]
        texts = [text for text, _ in labelled]
        truth = np.array([labels.index(label) for _, label in labelled])
        step(f"{name}: the reference")
        expected = _scores(reference, texts, labels, batch=1)
        for precision, engine in engines.items():
            step(f"{name}: {precision}")
            found = _scores(engine, texts, labels, batch=256)
            yield {"set": name, "precision": precision, **_compare(found, expected, truth)}


def _scores(pipeline: Callable[..., Any], texts: list[str], labels: list[str], batch: int) -> np.ndarray:
    """Returns scores of independent labels, [texts, labels]."""
    found = []
    for start in range(0, len(texts), batch):
        results = pipeline(texts[start : start + batch], labels, threshold=0.0)
        found += [[pair["score"] for pair in row] for row in results]
    return np.array(found)


def _compare(found: np.ndarray, expected: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    from sklearn.metrics import f1_score

    best = {"macro_f1": found.argmax(1), "reference_macro_f1": expected.argmax(1)}
    return {
        "texts": len(found),
        "labels": found.shape[1],
        **{key: round(float(f1_score(truth, each, average="macro")), 4) for key, each in best.items()},
        "changed_best": int((best["macro_f1"] != best["reference_macro_f1"]).sum()),
        "changed_multi": int(((found >= 0.5) != (expected >= 0.5)).sum()),
        "largest_score_difference": float(abs(found - expected).max()),
    }
