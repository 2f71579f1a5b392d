"""Adds a column of labels to a parquet file of any size, one part of the rows at a time.

    python examples/batch_over_parquet.py [INPUT OUTPUT]

INPUT has a column `text`. OUTPUT has all columns of INPUT and a column `labels`. Without arguments, a small
file is made in a temporary folder. Needs pyarrow: pip install ".[data]".
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from gliclass_fast import ZeroShotClassificationPipeline, demo

LABELS = ["music", "weather", "restaurant"]
ROWS = 4096  # at a time; the engine forms its own batches of them


def classify(source: Path, target: Path) -> int:
    """The number of rows written."""
    pipeline = ZeroShotClassificationPipeline(demo.PATH, progress_bar=False)
    file, done = pq.ParquetFile(source), 0
    schema = file.schema_arrow.append(pa.field("labels", pa.list_(pa.string())))
    with pq.ParquetWriter(target, schema) as writer:
        for part in file.iter_batches(batch_size=ROWS):
            texts = [text or "" for text in part.column("text").to_pylist()]
            found = [[each["label"] for each in row] for row in pipeline(texts, LABELS, threshold=0.5)]
            labels = pa.array(found, pa.list_(pa.string()))
            writer.write_batch(pa.RecordBatch.from_arrays([*part.columns, labels], schema=schema))
            done += len(texts)
    return done


def main(arguments: list[str]) -> None:
    if len(arguments) not in (0, 2):
        sys.exit("usage: python examples/batch_over_parquet.py [INPUT OUTPUT]")
    folder = Path(tempfile.mkdtemp())
    source, target = (
        map(Path, arguments) if arguments else (folder / "texts.parquet", folder / "labels.parquet")
    )
    if not arguments:
        texts = ["Play some jazz.", "Will it rain in Lisbon?", "Book a table for four tonight."]
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), source)
    print(f"{classify(source, target)} rows in {target}")
    for row in pq.read_table(target).slice(0, 5).to_pylist():
        print(row)


if __name__ == "__main__":
    main(sys.argv[1:])
