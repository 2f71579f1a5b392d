"""Pipelines work in other processes, forked after loading or after a call, or pickled."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from gliclass_fast import ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline, demo
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

# a process of its own; what it runs before the fork may leave threads behind that its child does not have
FORK = """
import multiprocessing
import sys
import torch
from gliclass_fast import ZeroShotClassificationPipeline, demo
torch.set_num_threads(2)
dtype = {"called in float16": "float16", "loaded with auto": "auto"}.get(sys.argv[1], "float32")
pipeline = ZeroShotClassificationPipeline(demo.PATH, dtype=dtype, progress_bar=False)
if sys.argv[1].startswith("called"):
    pipeline(["Play some jazz."] * 64, ["music"])
if sys.argv[1] == "loaded beside other work of torch":
    torch.ones(2000, 2000).exp().sum()
fork = multiprocessing.get_context("fork")
found = fork.Queue()
def run():
    label = pipeline("Play some jazz.", ["music"], threshold=0.0)[0][0]["label"]
    found.put((label, torch.get_num_threads()))
fork.Process(target=run, daemon=True).start()
print(*found.get(timeout=60))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parent", "threads"),
    [
        ("loaded", 2),
        ("loaded with auto", 2),
        ("loaded beside other work of torch", 2),
        ("called", 2),
        ("called in float16", 1),
    ],
)
def test_a_forked_process_classifies(parent: str, threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, parent], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout.split() == ["music", str(threads)], done.stderr
    assert ("computes on one thread" in done.stderr) == (threads == 1)


@pytest.mark.slow
def test_copies_give_the_same_scores() -> None:
    originals = (
        ZeroShotClassificationPipeline(demo.PATH, progress_bar=False, batch_tokens=100),
        ZeroShotClassificationWithChunkingPipeline(demo.PATH, progress_bar=False, max_length=200),
        fast_pipeline(reference_model(), byte_tokenizer()),
    )
    for original in originals:
        expected = original("Play some jazz.", ["music", "sport"], threshold=0.0)
        for twin in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
            assert twin("Play some jazz.", ["music", "sport"], threshold=0.0) == expected
            assert twin.engine.batch_tokens == original.engine.batch_tokens
            assert twin.engine.window == original.engine.window
