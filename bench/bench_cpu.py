"""The engine, in float32 and int8, beside the reference on a CPU: model forward and whole pipeline.

    python -m bench.bench_cpu [--shapes deberta-v3-base,modernbert-base] [--threads 2] [--output FILE.json]

Weights are random at stock shapes, ratios are by alternation. A case is timed only after both engines gave
the same float32 logits on it; beside int8 stands how far its logits are off, which random weights say little
about (`gliclass-fast check --precision int8` is for trained ones).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gliclass
import torch
import transformers
from rich.console import Console
from rich.table import Table

from bench import cases, peak_memory
from bench.forward import engine_forwards, engine_logits, forward_functions, logits_alone
from bench.timing import alternate, as_record, machine
from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.selfcheck import ALLOWED_ERROR, logit_error


def compare(
    reference: Any,
    ours: ZeroShotClassificationPipeline,
    rounded: ZeroShotClassificationPipeline,
    case: cases.Case,
    repeats: int,
) -> dict[str, Any]:
    """Logit error, then times of all engines' forward and pipeline. AssertionError on a wrong logit."""
    expected = logits_alone(reference, case)
    found = [each["logits"] for each in ours.get_embeddings(cases.texts(case), list(case.labels))]
    error = logit_error(found, expected)
    assert error <= ALLOWED_ERROR, f"{case.name}: logit error {error:.1e}"
    row: dict[str, Any] = {
        "case": case.name,
        "largest_logit": round(max(float(abs(e).max()) for e in expected), 4),
        "logit_error": error,
        "int8_logit_error": logit_error(engine_logits(rounded, case, runs=1), expected),
    }
    texts, labels = cases.texts(case), list(case.labels)
    int8 = {
        "forward": engine_forwards(rounded, case)["engine"],
        "pipeline": lambda: rounded(texts, labels),
    }
    for part, functions in forward_functions(reference, ours, case).items():
        times = alternate({**functions, "int8": int8[part]}, repeats)
        row[part] = as_record(times)
        for name, key in (("engine", "speedup"), ("int8", "int8_speedup")):
            row[part][key] = round(times["reference"].median / times[name].median, 2)
    return row


def bench_shape(shape: str, repeats: int) -> dict[str, Any]:
    model = cases.random_model(shape)
    stock = cases.tokenizer()
    settings = {"device": "cpu", "progress_bar": False}
    reference = gliclass.ZeroShotClassificationPipeline(model, stock, **settings)
    ours = ZeroShotClassificationPipeline(GLiClassModel.from_gliclass(model, device="cpu"), stock, **settings)
    rounded = ZeroShotClassificationPipeline(
        GLiClassModel.from_gliclass(model, device="cpu", precision="int8"), stock, **settings
    )
    rows = [compare(reference, ours, rounded, case, repeats) for case in cases.CPU_CASES]
    ops = ours.model.ops.chosen
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stock.save_pretrained(folder)
        del model, reference, ours, rounded
        memory = {engine: peak_memory.of(engine, folder) for engine in ("reference", "engine")}
    return {"shape": shape, "dtype": "float32", "ops": ops, "cases": rows, "peak_memory_mib": memory}


def show(result: dict[str, Any]) -> None:
    table = Table("shape", "batch", "part", "reference ms", "engine ms", "speed-up", "int8 ms", "speed-up")
    for shape in result["shapes"]:
        for row in shape["cases"]:
            for part in ("forward", "pipeline"):
                times = row[part]
                table.add_row(
                    shape["shape"],
                    row["case"],
                    part,
                    f"{times['reference']['median']:.1f}",
                    f"{times['engine']['median']:.1f}",
                    f"{times['speedup']:.2f}x",
                    f"{times['int8']['median']:.1f}",
                    f"{times['int8_speedup']:.2f}x",
                )
        peak = shape["peak_memory_mib"]
        table.add_row(
            shape["shape"], "8x256", "peak MiB", f"{peak['reference']}", f"{peak['engine']}", "", ""
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="deberta-v3-base,modernbert-base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    unknown = set(options.shapes.split(",")) - set(cases.SHAPES)
    if unknown:
        sys.exit(f"unknown shapes {sorted(unknown)}; known: {', '.join(cases.SHAPES)}")
    shapes = [bench_shape(shape, options.repeats) for shape in options.shapes.split(",")]
    result = {"benchmark": "bench_cpu", "machine": machine(), "shapes": shapes}
    show(result)
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
