"""The whole pipeline against the reference's on real sentences: decisions and scores, one text at a time
there.

    python -m bench.parity --data DATA [--rows 500] [--model FOLDER] [--output FILE.json]

DATA holds banking77/test.csv and snips/validate.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import Any

import gliclass
import torch
import transformers

from bench.timing import machine
from gliclass_fast import ZeroShotClassificationPipeline, demo

SETS = {"banking77": ("banking77/test.csv", "category"), "snips": ("snips/validate.csv", "intent")}
ALLOWED_SCORE_DIFFERENCE = 1e-4


def read(file: Path, column: str, rows: int) -> tuple[list[str], list[str]]:
    """Texts spread evenly over the file, and all labels of it."""
    with file.open(encoding="utf-8", newline="") as opened:
        found = list(csv.DictReader(opened))
    labels = sorted({row[column].replace("_", " ") for row in found})
    step = max(len(found) // rows, 1)
    return [row["text"] for row in found[::step][:rows]], labels


def compare(
    ours: ZeroShotClassificationPipeline, reference: Any, texts: list[str], labels: list[str]
) -> dict[str, Any]:
    changed = dict.fromkeys(("single-label", "multi-label"), 0)
    largest = 0.0
    for kind in changed:
        found = ours(texts, labels, classification_type=kind)
        everything = ours(texts, labels, threshold=0.0, classification_type=kind)
        for text, decided, scored in zip(texts, found, everything, strict=True):
            expected = reference(text, labels, classification_type=kind)[0]
            changed[kind] += [each["label"] for each in decided] != [each["label"] for each in expected]
            wanted = reference(text, labels, threshold=0.0, classification_type=kind)[0]
            pairs = zip(scored, wanted, strict=True)
            largest = max(largest, *(abs(a["score"] - b["score"]) for a, b in pairs))
    return {
        "texts": len(texts),
        "labels": len(labels),
        "changed": changed,
        "largest_score_difference": largest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--model", default=str(demo.PATH))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    ours = ZeroShotClassificationPipeline(options.model, device="cpu", progress_bar=False)
    model = gliclass.GLiClassModel.from_pretrained(options.model, dtype=torch.float32)
    reference = gliclass.ZeroShotClassificationPipeline(
        model, ours.tokenizer, device="cpu", progress_bar=False
    )
    sets = {
        name: compare(ours, reference, *read(options.data / file, column, options.rows))
        for name, (file, column) in SETS.items()
    }
    result = {"benchmark": "parity", "machine": machine(), "dtype": "float32", "sets": sets}
    print(json.dumps(sets, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    worst = max(each["largest_score_difference"] for each in sets.values())
    sys.exit(any(any(each["changed"].values()) for each in sets.values()) or worst > ALLOWED_SCORE_DIFFERENCE)


if __name__ == "__main__":
    main()
