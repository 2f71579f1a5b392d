"""A fence: on a GPU, slots are written while nothing reads them, whatever streams the readers run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class SlotFence:
    """Keeps what reads the slots of adapters apart from what writes them.

    A batch is launched and reads on, on the stream of its caller, and another caller may write on another
    stream. A write waits for all readers, also those of other slots, as it may move a store to other memory
    and free what they read. It waits on the host. That costs nothing where it fills a slot: an adapter comes
    from the host in copies that wait for their stream anyway. On a CPU, what was called has run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._on_gpu = device, device.type == "cuda"
        self._reads: dict[torch.cuda.Stream, torch.cuda.Event] = {}  # the end of the last one on each stream

    def note_read(self) -> None:
        """Notes that what was launched on the current stream may read slots."""
        if self._on_gpu:
            stream = torch.cuda.current_stream(self._device)
            self._reads[stream] = stream.record_event()

    @contextmanager
    def write(self) -> Iterator[None]:
        """Waits for all reads before it, and for what is written in it, so that any stream may read then."""
        for read in self._reads.values():
            read.synchronize()
        self._reads.clear()
        try:
            yield
        finally:
            if self._on_gpu:
                torch.cuda.current_stream(self._device).synchronize()
