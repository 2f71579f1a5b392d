"""The engine beside the reference and its peers on a GPU: accuracy of every case, then times by alternation.

    python -m bench.bench_gpu --output FILE.json [--shape deberta-v3-base] [--dtype float16] [--repeats 9]

Weights are random at stock shapes. No time is written beside a wrong answer.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gliclass
import numpy as np
import torch
import transformers
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench import cases
from bench.forward import engine_logits, forward_functions, logits_alone, reference_forward
from bench.peers import PEERS
from bench.timing import alternate, as_record
from gliclass_fast import GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.selfcheck import ALLOWED_ERROR, logit_error


def peer_pipelines(model: Any, tokenizer: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Per peer a reference pipeline that runs on it, or why there is none."""
    found: dict[str, Any] = {}
    for name, install in PEERS.items():
        try:
            replaced = install(copy.deepcopy(model))
            found[name] = gliclass.ZeroShotClassificationPipeline(replaced, tokenizer, **settings)
        except Exception as error:  # a peer that does not run has its error in the table
            found[name] = repr(error)
    return found


def kernels_launched(function: Callable[[], Any]) -> int:
    """Kernels on the GPU; the driver's copies and fills are not counted."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        function()
        torch.cuda.synchronize()
    on_gpu = [event.name for event in profiled.events() if event.device_type == DeviceType.CUDA]
    return sum(not name.startswith(("Memcpy", "Memset")) for name in on_gpu)


def peer_error(peer: Any, case: cases.Case, exact: list[np.ndarray]) -> float | str:
    """How far its logits are off, or why it does not run."""
    if isinstance(peer, str):
        return peer
    try:
        reference_forward(peer, case)()
        return logit_error(logits_alone(peer, case), exact)
    except Exception as error:
        return repr(error)


def bench_case(
    pipelines: dict[str, Any], exact: list[np.ndarray], case: cases.Case, device: str, repeats: int
) -> dict[str, Any]:
    """Accuracy of every engine, then times of those that are accurate."""
    reference, ours, peers = pipelines["reference"], pipelines["engine"], pipelines["peers"]
    row: dict[str, Any] = {"case": case.name, "error": logit_error(engine_logits(ours, case), exact)}
    row["reference_error"] = logit_error(logits_alone(reference, case), exact)
    # 16-bit: at most twice the reference's own error
    allowed = max(ALLOWED_ERROR, 2 * row["reference_error"])
    row["accurate"] = row["error"] <= allowed
    if not row["accurate"]:  # no time is written beside a wrong answer
        return row
    parts = forward_functions(reference, ours, case)
    forward = parts["forward"]
    row["peers"] = {name: peer_error(peer, case, exact) for name, peer in peers.items()}
    for name, error in row["peers"].items():
        if not isinstance(error, str) and error <= allowed:
            forward[name] = reference_forward(peers[name], case)
    if device == "cuda":
        row["kernels"] = kernels_launched(forward.get("engine without graphs", forward["engine"]))
    for part, functions in parts.items():
        times = alternate(functions, repeats, device=device)
        speedup = round(times["reference"].median / times["engine"].median, 2)
        row[part] = {**as_record(times), "speedup": speedup}
    return row


def bench_shape(shape: str, dtype: str, device: str, repeats: int) -> dict[str, Any]:
    """Every case of a shape in a dtype; `exact` logits are the reference's in float32."""
    model, stock = cases.random_model(shape).to(device), cases.tokenizer()
    settings = {"device": device, "progress_bar": False}
    reference = gliclass.ZeroShotClassificationPipeline(model, stock, **settings)
    low = getattr(torch, dtype)
    fast = GLiClassModel.from_gliclass(model, device=device, dtype=low)
    ours = ZeroShotClassificationPipeline(fast, stock, **settings)
    chosen = [*cases.GPU_CASES, *cases.label_cases()]
    if device == "cpu":
        chosen = [*cases.GPU_CASES[:2], *cases.label_cases(batch=1)]
    chosen = [case for case in chosen if max(case.lengths) <= ours.engine.window]
    exact = [logits_alone(reference, case) for case in chosen]
    model.to(low)
    with_peers = cases.SHAPES[shape][0] == "deberta-v2" and dtype != "float32"
    pipelines = {
        "reference": reference,
        "engine": ours,
        "peers": peer_pipelines(model, stock, settings) if with_peers else {},
    }
    found: dict[str, Any] = {"shape": shape, "dtype": dtype, "ops": sorted(set(fast.ops.chosen.values()))}
    found["cases"] = [
        bench_case(pipelines, truth, case, device, repeats) for case, truth in zip(chosen, exact, strict=True)
    ]
    if fast.graphs is not None:
        found["graphs"] = {"count": fast.graphs.count, "mib": round(fast.graphs.memory / 2**20, 1)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shape", choices=cases.SHAPES, default="deberta-v3-base")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cuda", help="cpu only tries the script out")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    found = bench_shape(options.shape, options.dtype, options.device, options.repeats)
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
