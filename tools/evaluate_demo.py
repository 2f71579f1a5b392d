"""Scores a checkpoint on AG News, SNIPS and SST-2, as the demo's model card reports them.

    python tools/evaluate_demo.py --data DATA [--model MODEL] [--output bench/results/demo.json]

DATA holds ag_news/sample.csv, snips/validate.csv and sst2/test.txt. All three are single-label accuracy.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from demo_data import read_csv, read_rated

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.bench.quality import spoken_name

NEWS = ["world politics", "sports", "business", "science and technology"]


def accuracy(
    pipeline: ZeroShotClassificationPipeline, rows: list[tuple[str, str]], labels: list[str]
) -> float:
    found = pipeline([text for text, _ in rows], labels, classification_type="single-label")
    right = sum(each[0]["label"] == truth for each, (_, truth) in zip(found, rows, strict=True))
    return right / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=str(demo.PATH))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pipeline = ZeroShotClassificationPipeline(options.model, device="cpu", progress_bar=False)

    with (options.data / "ag_news/sample.csv").open(encoding="utf-8", newline="") as file:
        news = [(NEWS[int(kind) - 1], title, text) for kind, title, text in csv.reader(file)]
    snips = [
        (text, spoken_name(label)) for text, label in read_csv(options.data / "snips/validate.csv", "intent")
    ]
    rated = [
        (text, ("negative", "positive")[side]) for text, side in read_rated(options.data / "sst2/test.txt")
    ]
    results = []
    for name, rows, labels in (
        ("AG News, title and text", [(f"{title}. {text}", kind) for kind, title, text in news], NEWS),
        ("AG News, text", [(text, kind) for kind, _, text in news], NEWS),
        ("SNIPS validation", snips, sorted({label for _, label in snips})),
        ("SST-2 test", rated, ["positive", "negative"]),
    ):
        right = accuracy(pipeline, rows, labels)
        results.append({"set": name, "rows": len(rows), "labels": labels, "accuracy": round(right, 4)})
        print(f"{name}: {right:.4f} of {len(rows)} rows")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
