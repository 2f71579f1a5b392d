"""Transfers: one thread at a time gives work to a device, and the logits come back."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.ops import torch_on_one_thread

logger = logging.getLogger(__name__)

Call = TypeVar("Call", bound=Callable[..., Any])

# Whoever gives a GPU work holds this lock: a process may record one graph at a time, and what another thread
# did meanwhile (wait for the device, set up a library) would break the recording.
LAUNCH_LOCK = threading.RLock()

_ran = threading.Event()  # set once this process ran something on OpenMP's threads


def uncompiled(call: Call) -> Call:
    """Makes `torch.compile` run a call as it is: it can follow neither our kernels nor NumPy's arrays."""

    @wraps(call)
    def as_it_is(*positional: Any, **named: Any) -> Any:
        if torch.compiler.is_compiling():  # else `disable` would import the compiler, which takes seconds
            return torch.compiler.disable(call)(*positional, **named)  # type: ignore[no-untyped-call]
        return call(*positional, **named)

    return cast(Call, as_it_is)


def _use_one_thread_after_fork() -> None:
    """Sets torch to one thread in a forked child, which would wait for ever for its parent's threads."""
    if _ran.is_set():
        torch.set_num_threads(1)
        logger.warning(
            "process %d was forked after a call and computes on one thread; start processes with 'spawn' to "
            "have more",
            os.getpid(),
        )


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_use_one_thread_after_fork)


@contextmanager
def inference_on(device: torch.device, own_threads: bool = False) -> Iterator[None]:
    """Enters inference mode, locks a GPU and makes it the current one, on which Triton launches.

    Autocast is off within, as the engine has a dtype of its own.

    own_threads: the work is that of kernels with threads of their own, so that torch does with one.
    """
    with ExitStack() as stack:
        if own_threads:
            stack.enter_context(torch_on_one_thread())
        if torch.get_num_threads() > 1:
            _ran.set()
        stack.enter_context(torch.inference_mode())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(LAUNCH_LOCK)
            stack.enter_context(torch.cuda.device(device))
        yield


@dataclass(frozen=True, slots=True)
class PendingLogits:
    """Holds logits, or vectors, that a device may still be computing."""

    host: Tensor  # float32; logits are [1 or 2, L], as `Output.stacked_logits` gives them
    copied: torch.cuda.Event | None  # None where the copy was made at once

    @classmethod
    def copy(cls, logits: Tensor) -> PendingLogits:
        """Orders the copy to the host, on the current stream."""
        host = torch.empty(logits.shape, dtype=torch.float32, device="cpu", pin_memory=logits.is_cuda)
        host.copy_(logits, non_blocking=True)
        return cls(host, torch.cuda.current_stream(logits.device).record_event() if logits.is_cuda else None)

    def wait(self) -> np.ndarray:
        """Waits until the values are there and returns them, float32."""
        values: np.ndarray = self.host.numpy()
        if self.copied is not None:
            self.copied.synchronize()
            values = values.copy()  # page-locked memory is for the next batch, not for who keeps results
        return values
