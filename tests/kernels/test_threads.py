"""Who works on how many threads: torch where the kernels have their own, and callers who share them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from threading import Event, Thread

import pytest
import torch

from gliclass_fast.kernels import _threads
from gliclass_fast.kernels._threads import SharedThreads, thread_count, torch_on_one_thread

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


@pytest.fixture
def three_threads() -> Iterator[None]:
    kept = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(kept)


def counts() -> tuple[int, int]:
    """Returns the threads of a kernel and those of torch."""
    return thread_count(), torch.get_num_threads()


@pytest.mark.usefixtures("three_threads")
def test_the_setting_of_a_thread_comes_back() -> None:
    seen = []
    with torch_on_one_thread(), torch_on_one_thread():
        assert counts() == (3, 1)
        other = Thread(target=lambda: seen.append(counts()))
        other.start()
        other.join()
    assert counts() == (3, 3) and seen == [(3, 3)]


@pytest.mark.usefixtures("three_threads")
def test_callers_share_threads_while_they_work() -> None:
    shared, began, ends, seen = SharedThreads(), Event(), Event(), []

    def work() -> None:
        with shared.part():
            seen.append(counts())
            began.set()
            ends.wait(20)

    other = Thread(target=work)
    with shared.part():
        assert counts() == (3, 3)
        other.start()
        assert began.wait(20)
        assert counts() == (2, 3), "the kernels follow at once, torch keeps what it began with"
        with torch_on_one_thread():
            assert counts() == (2, 1)
        ends.set()
        other.join()
        assert counts() == (3, 3)
    assert counts() == (3, 3) and seen == [(2, 2)]


@pytest.mark.usefixtures("three_threads")
def test_threads_are_shared_only_where_there_are_several_with_numbers_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert SharedThreads().can_be_shared
    with monkeypatch.context() as patched:
        patched.setattr(_threads, "_setters", lambda: None)
        assert not SharedThreads().can_be_shared
        with SharedThreads().part():
            assert counts() == (3, 3)
    torch.set_num_threads(1)
    assert not SharedThreads().can_be_shared


@pytest.mark.slow
def test_calls_start_no_threads_of_torch() -> None:
    quiet = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", CALLS], capture_output=True, text=True, timeout=120, check=False, env=quiet
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr  # that of the kernels
