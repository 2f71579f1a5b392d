"""torch works on one thread where the kernels have their own, and its setting is what it was afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from threading import Thread

import pytest
import torch

from gliclass_fast.kernels._threads import thread_count, torch_on_one_thread

# a process of its own: it counts the threads that calls start
CALLS = """
import os
import torch
from gliclass_fast.ops import torch_on_one_thread
from tests import families
from tests.streaming.scripts import streaming
torch.set_num_threads(2)
texts, labels = ["some words " * 20] * 50, [f"label {number}" for number in range(12)]
pipelines = [families.pipeline(kind) for kind in ("bi-encoder", "encoder-decoder, BART", "GliZNet D")]
before = len(os.listdir("/proc/self/task"))
for pipeline in pipelines:
    pipeline(texts, labels)
streaming()(texts[:2], labels, session_ids=["a", "b"])
with torch_on_one_thread():  # what the tiny models are too small for
    torch.ones(2000, 2000).exp() @ torch.ones(2000, 9)
print(len(os.listdir("/proc/self/task")) - before)
"""


def test_the_setting_of_a_thread_comes_back() -> None:
    kept, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        with torch_on_one_thread(), torch_on_one_thread():
            assert (thread_count(), torch.get_num_threads()) == (3, 1)
            other = Thread(target=lambda: seen.append((thread_count(), torch.get_num_threads())))
            other.start()
            other.join()
        assert (thread_count(), torch.get_num_threads()) == (3, 3) and seen == [(3, 3)]
    finally:
        torch.set_num_threads(kept)


@pytest.mark.slow
def test_calls_start_no_threads_of_torch() -> None:
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=120, check=False, env=quiet
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr  # that of the kernels
