"""Memory: what a process grows by in very many calls, in streams, and by loading models once or many times.

python -m tools.soak calls [--calls 100000] [--engine gliclass-fast|gliclass] [--record]
python -m tools.soak models [--models 100] [--engine ...] [--record]
python -m tools.soak loading [--shape deberta-v3-base] [--engine ...] [--record]
python -m tools.soak sessions [--sessions 200] [--chunks 20000] [--record]

calls: the demo checkpoint, one thread, a text of 1 to 100 words and 1 to 25 labels a call, small numbers more
often than large ones. The first tenth is the warm-up; growth is the median of the last tenth over that of the
second.
models: the demo checkpoint is loaded, called once and dropped; the first ten do not count.
loading: the peak of the resident memory while a checkpoint of random weights is loaded and called once, less
what was held before, over the size of the file. Each figure is of a process of its own.
sessions: a tiny model reads streams (see streams.py); growth is as that of `calls`. The exit code is 1 where
an answer depends on other sessions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gliclass_fast import demo
from tools.reliability import record

PROGRAM = """
import gc, json, os, random, sys, time
from pathlib import Path
import torch
package, what, model, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
torch.set_num_threads(1)
package = __import__(package)
def resident(field=1):
    return int(Path("/proc/self/statm").read_text().split()[field]) * os.sysconf("SC_PAGE_SIZE") / 2**20
def load():
    loaded = package.GLiClassModel.from_pretrained(model)
    return package.ZeroShotClassificationPipeline(
        loaded, model, max_length=512, device="cpu", progress_bar=False
    )
chance, words = random.Random(0), [f"w{n}" for n in range(5000)]
def drawn(most):
    return round(most ** chance.random())  # half are at most the root of the largest
def call(pipeline):
    text = " ".join(chance.choices(words, k=drawn(100)))
    pipeline(text, chance.sample(words, drawn(25)))
seen = []
if what == "loading":
    wanted, model = model, sys.argv[5]
    call(load())  # what comes with the first model, whatever its size
    model = wanted
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident()
    pipeline = load()
    call(pipeline)  # before it, nothing has read weights that are only mapped
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    seen = [before, peak, resident()]
elif what == "models":
    for _ in range(count):
        pipeline = load()
        call(pipeline)
        del pipeline
        gc.collect()
        seen.append(resident())
else:
    pipeline, looks, began = load(), max(1, count // 1000), time.monotonic()
    for number in range(count):
        call(pipeline)
        if number % looks == 0:
            seen.append(resident())
        if number % max(1, count // 20) == 0:
            print(f"{number} of {count} calls, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
print(json.dumps(seen))
"""
ENGINES = {"gliclass-fast": "gliclass_fast", "gliclass": "gliclass"}
FIRST_MODELS = 10  # that do not count


def run(engine: str, what: str, model: str, count: int) -> list[float]:
    given = [ENGINES[engine], what, model, str(count), str(demo.PATH)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *given], stdout=subprocess.PIPE, text=True, check=True
    )
    seen: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seen


def growth(seen: list[float]) -> dict[str, float]:
    tenth = max(1, len(seen) // 10)
    early, late = statistics.median(seen[tenth : 2 * tenth]), statistics.median(seen[-tenth:])
    return {
        "after the warm-up, MiB": round(early, 1), "at the end, MiB": round(late, 1),
        "grown by, %": round(100 * (late / early - 1), 2), "most, MiB": round(max(seen), 1),
    }  # fmt: skip


def calls(engine: str, count: int) -> dict[str, Any]:
    return {"calls": count, **growth(run(engine, "calls", str(demo.PATH), count))}


def sessions(count: int, chunks: int) -> dict[str, Any]:
    from tools import streams

    seen, found = streams.run(count, chunks)
    return {**found, **growth(seen)}


def models(engine: str, count: int) -> dict[str, Any]:
    seen = run(engine, "models", str(demo.PATH), FIRST_MODELS + count)
    early, late = seen[FIRST_MODELS - 1], seen[-1]
    return {"models": count, "after ten, MiB": round(early, 1), "grown by, MiB": round(late - early, 1)}


def loading(engine: str, shape: str) -> dict[str, Any]:
    from gliclass_fast.bench import cases

    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = cases.load(shape)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        size = (Path(folder) / "model.safetensors").stat().st_size / 2**20
        before, peak, after = run(engine, "loading", folder, 1)
    return {
        "shape": shape, "file, MiB": round(size), "peak, MiB": round(peak - before),
        "peak over file": round((peak - before) / size, 2), "then held, MiB": round(after - before),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("calls", "models", "loading", "sessions"))
    parser.add_argument("--engine", choices=ENGINES, default="gliclass-fast")
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--shape", default="deberta-v3-base")
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    if options.what == "calls":
        found = calls(options.engine, options.calls)
    elif options.what == "models":
        found = models(options.engine, options.models)
    elif options.what == "sessions":
        found = sessions(options.sessions, options.chunks)
    else:
        found = loading(options.engine, options.shape)
    facts = {"engine": options.engine, **found}
    print(json.dumps(facts))
    if options.record:
        among = ("engine", "shape") if options.what == "loading" else ("engine",)
        record(f"memory, {options.what}", facts, among=among)
    sys.exit(bool(found.get("answers that differ")))


if __name__ == "__main__":
    main()
