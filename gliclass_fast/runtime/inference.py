"""How work is given to a device: in inference mode, by one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

# Held by whoever gives a GPU work: a process may record one graph at a time, and what another thread did
# meanwhile (wait for the device, set up a library) would break the recording.
LAUNCH_LOCK = threading.RLock()


@contextmanager
def inference_on(device: torch.device) -> Iterator[None]:
    """Inference mode, with a GPU as the current one and to itself: Triton launches on the current one."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            stack.enter_context(LAUNCH_LOCK)
            stack.enter_context(torch.cuda.device(device))
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Work on the host that leaves no pool of threads behind: a process forked later would wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
