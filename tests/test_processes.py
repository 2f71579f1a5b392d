"""Pipelines work in other processes, forked after loading or after a call, or pickled."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from gliclass_fast import ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline, demo
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

# a process of its own; what it runs before the fork leaves threads behind that its child does not have
FORK = """
import multiprocessing
import sys
import torch
from gliclass_fast import ZeroShotClassificationPipeline, demo
pipeline = ZeroShotClassificationPipeline(demo.PATH, progress_bar=False)
torch.set_num_threads(2)
if sys.argv[1] == "called":
    pipeline(["Play some jazz."] * 64, ["music"])
fork = multiprocessing.get_context("fork")
found = fork.Queue()
run = lambda: found.put(pipeline("Play some jazz.", ["music"], threshold=0.0))
fork.Process(target=run, daemon=True).start()
print(found.get(timeout=60)[0][0]["label"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("parent", ["loaded", "called"])
def test_a_forked_process_classifies(parent: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, parent], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout.split() == ["music"], done.stderr
    assert ("computes on one thread" in done.stderr) == (parent == "called")


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
