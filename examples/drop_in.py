"""A program written for `gliclass`, with one import changed.

    python examples/drop_in.py [MODEL]

MODEL is a folder or a repository id, such as knowledgator/gliclass-base-v3.0; default: the demo checkpoint.
"""

from __future__ import annotations

import sys

from transformers import AutoTokenizer

# from gliclass import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline, demo

TEXTS = [
    "A NASA rover has found organic molecules in a Martian crater.",
    "Add this song to my workout playlist, please.",
    "The central bank raised interest rates to slow inflation.",
]
LABELS = ["space exploration", "music", "banking and finance"]


def main(name: str) -> None:
    model = GLiClassModel.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)
    pipeline = ZeroShotClassificationPipeline(
        model, tokenizer, classification_type="multi-label", device="cuda:0", progress_bar=False
    )
    for text, predictions in zip(TEXTS, pipeline(TEXTS, LABELS, threshold=0.5), strict=True):
        found = ", ".join(f"{each['label']} {each['score']:.2f}" for each in predictions)
        print(f"{text}\n    {found or '-'}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(demo.PATH))
