"""Everything that only a GPU shows, in one command: parity tests, parity at stock shapes, times; one JSON.

    python bench/gpu_check.py --output FOLDER [--wheels FOLDER] [--shapes a,b] [--repeats N]

Writes FOLDER/gpu_check.json. Needs torch and transformers; --wheels names a folder of wheels (gliclass, and
pytest where it is absent) to install first, for machines without a network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SHAPES = "deberta-v3-base,modernbert-base,ettin-32m,bert-base,mdeberta-v3-base"
DTYPES = ("float32", "float16", "bfloat16")


def run_tests() -> dict[str, Any]:
    """The suite of tests/gpu in a process of its own."""
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-p", "no:cacheprovider"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return {
        "returncode": done.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "tail": (done.stdout + done.stderr).splitlines()[-30:],
    }


def machine_ceilings(device: str) -> dict[str, float]:
    """Copy bandwidth in GB/s (read plus write) and bfloat16 GEMM rate in TFLOP/s."""
    import torch

    from bench.timing import alternate

    big = torch.empty(1 << 28 if device == "cuda" else 1 << 22, dtype=torch.float32, device=device)
    other = torch.empty_like(big)
    size = 8192 if device == "cuda" else 512
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    times = alternate({"copy": lambda: other.copy_(big), "gemm": lambda: a @ b}, repeats=9, device=device)
    return {
        "copy_gb_per_s": round(2 * big.numel() * 4 / times["copy"].median / 1e6, 1),
        "bf16_gemm_tflop_per_s": round(2 * size**3 / times["gemm"].median / 1e9, 1),
    }


def bench_shape(shape: str, dtype: str, device: str, repeats: int) -> list[dict[str, Any]]:
    """Accuracy of every case against the reference in float32, then times of forward and pipeline."""
    import gliclass
    import torch

    from bench import cases
    from bench.forward import forward_functions, logits_alone
    from bench.timing import alternate, as_record
    from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
    from gliclass_fast.selfcheck import ALLOWED_ERROR, logit_error

    model = cases.random_model(shape).to(device)
    stock = cases.tokenizer()
    settings = {"device": device, "progress_bar": False}
    reference = gliclass.ZeroShotClassificationPipeline(model, stock, **settings)
    chosen = (
        (*cases.GPU_CASES, *cases.label_cases())
        if device == "cuda"
        else cases.GPU_CASES[:2] + tuple(cases.label_cases(batch=1))
    )
    low_dtype = getattr(torch, dtype)
    ours = ZeroShotClassificationPipeline(
        GLiClassModel.from_gliclass(model, device=device, dtype=low_dtype), stock, **settings
    )
    chosen = [case for case in chosen if max(case.lengths) <= ours.engine.window]
    exact = {case.name: logits_alone(reference, case) for case in chosen}
    model.to(low_dtype)
    rows = []
    for case in chosen:
        found = [each["logits"] for each in ours.get_embeddings(cases.texts(case), list(case.labels))]
        row: dict[str, Any] = {"shape": shape, "dtype": dtype, "case": case.name}
        row["ops"] = sorted(set(ours.model.ops.chosen.values()))
        row["error"] = logit_error(found, exact[case.name])
        row["reference_error"] = logit_error(logits_alone(reference, case), exact[case.name])
        # 16-bit: at most twice the reference's own error
        row["accurate"] = row["error"] <= max(ALLOWED_ERROR, 2 * row["reference_error"])
        rows.append(row)
        if not row["accurate"]:  # no time is written beside a wrong answer
            continue
        for part, pair in forward_functions(reference, ours, case).items():
            times = alternate(pair, repeats, device=device)
            speedup = round(times["reference"].median / times["engine"].median, 2)
            row[part] = {**as_record(times), "speedup": speedup}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda", help="cpu only tries the script out")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.wheels:
        wheels = sorted(map(str, options.wheels.glob("*.whl")))
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *wheels], check=True)

    import torch
    import transformers

    from bench.timing import machine

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device is visible; --device cpu only tries the script out")
    transformers.utils.logging.set_verbosity_error()
    result: dict[str, Any] = {"benchmark": "gpu_check", "machine": machine(options.device), "failures": []}
    result["ceilings"] = machine_ceilings(options.device)
    result["rows"] = []
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "gpu_check.json"
    for shape in options.shapes.split(","):
        for dtype in options.dtypes.split(","):
            try:
                result["rows"] += bench_shape(shape, dtype, options.device, options.repeats)
            except Exception:  # one broken shape must not cost the others' measurements
                result["failures"].append({"shape": shape, "dtype": dtype, "error": traceback.format_exc()})
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(
                f"{shape} {dtype}: {len(result['rows'])} rows, {len(result['failures'])} failures", flush=True
            )
    result["tests"] = run_tests()  # last: every kernel in every variant is compiled, which takes minutes
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    accurate = all(row["accurate"] for row in result["rows"])
    sys.exit(bool(result["failures"]) or not accurate or result["tests"]["returncode"] != 0)


if __name__ == "__main__":
    main()
