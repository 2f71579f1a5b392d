"""Pipelines work in other processes, forked after loading or pickled."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from gliclass_fast import ZeroShotClassificationPipeline, ZeroShotClassificationWithChunkingPipeline, demo
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model

# a process of its own, as one that has run anything in parallel cannot fork
FORK = """
import multiprocessing
from gliclass_fast import ZeroShotClassificationPipeline, demo
pipeline = ZeroShotClassificationPipeline(demo.PATH, progress_bar=False)
fork = multiprocessing.get_context("fork")
found = fork.Queue()
run = lambda: found.put(pipeline("Play some jazz.", ["music"], threshold=0.0))
fork.Process(target=run, daemon=True).start()
print(found.get(timeout=60)[0][0]["label"])
"""


@pytest.mark.slow
def test_a_process_forked_after_loading_classifies() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0 and done.stdout.split() == ["music"], done.stderr


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
