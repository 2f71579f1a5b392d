"""PagePool: the keys and values of all sessions of one model, in pages of PAGE_ROWS tokens.

Sessions of any length share one buffer (Kwon et al., arXiv:2309.06180). A session appends in place, a window
is a range of its pages, and pages that it leaves serve others: nothing is stacked, padded or copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.ops import PAGE_ROWS
from gliclass_fast.runtime.transfer import inference_on

# Any numbers near these work: growing copies the whole pool, and new pages may stay unused.
LEAST_GROWTH = 16  # pages
GROWTH = 32  # A full pool grows by one part in so many.


class PagePool:
    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        """Takes the layers of a language model, its heads of keys and their width; no memory yet."""
        self._shape, self._dtype, self._device = (layers, 2, 0, heads, width), dtype, device
        self._last: torch.cuda.Event | None = None  # the end of what was done with the rows last
        self.empty()

    def empty(self) -> None:
        """Gives all memory back; no session has a page any more."""
        self.free: list[int] = []  # the pages that no session has
        self.rows = torch.empty(
            self._shape, dtype=self._dtype, device=self._device
        )  # [layers, 2, rows, G, D]

    @property
    def pages(self) -> int:
        """Counts all pages, free ones included."""
        return self.rows.shape[2] // PAGE_ROWS

    @property
    def used_pages(self) -> int:
        return self.pages - len(self.free)

    @property
    def bytes_per_token(self) -> int:
        """Returns the size of the keys and values of one token."""
        layers, both, _, heads, width = self._shape
        return layers * both * heads * width * self.rows.element_size()

    @property
    def used_bytes(self) -> int:
        """Returns the size of the pages that sessions have."""
        return self.used_pages * PAGE_ROWS * self.bytes_per_token

    @contextmanager
    def stream_scope(self) -> Iterator[None]:
        """Orders what is done with the rows behind what was done before, on whatever stream of a GPU.

        Calls may come on different streams, and a later one may give memory back that an earlier one uses.
        """
        if self._device.type != "cuda":
            yield
            return
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None:
            stream.wait_event(self._last)
        self.rows.record_stream(stream)
        try:
            yield
        finally:
            self._last = stream.record_event()

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """Enters what rows are copied in, which needs no threads."""
        with inference_on(self._device, own_threads=True), self.stream_scope():
            yield

    def stow(self, rows: np.ndarray, pinned: bool) -> Tensor:
        """Returns a copy of some rows in host memory, [layers, 2, R, G, D]; pinned: in page-locked memory."""
        with self._copying():
            host = self.rows[:, :, torch.from_numpy(rows).to(self._device)].cpu()
            return host.pin_memory() if pinned else host

    def restore(self, rows: np.ndarray, stowed: Tensor) -> None:
        """Writes rows that `stow` returned."""
        with self._copying():
            places = torch.from_numpy(rows).to(self._device)
            self.rows.index_copy_(2, places, stowed.to(self._device, non_blocking=True))

    def reserve(self, count: int) -> None:
        """Has so many pages free; the pool grows where they are not."""
        if count > len(self.free):
            self._grow(count - len(self.free))

    def take(self, count: int) -> list[int]:
        """Returns the numbers of `count` pages that were free; the pool grows where they do not suffice."""
        self.reserve(count)
        taken = self.free[len(self.free) - count :]
        del self.free[len(self.free) - count :]
        return taken

    def give(self, pages: Sequence[int]) -> None:
        """Takes pages back."""
        self.free.extend(pages)

    def keep_only(self, used: Iterable[Sequence[int]]) -> None:
        """Takes back all pages but those that are in use."""
        free = np.ones(self.pages, dtype=bool)
        for pages in used:
            free[list(pages)] = False
        self.free = np.flatnonzero(free)[::-1].tolist()

    def _grow(self, missing: int) -> None:
        old, more = self.pages, max(missing, LEAST_GROWTH, self.pages // GROWTH)
        layers, both, rows, heads, width = self.rows.shape
        shape = layers, both, rows + more * PAGE_ROWS, heads, width
        with self._copying():
            grown = torch.empty(shape, dtype=self._dtype, device=self._device)
            grown[:, :, :rows] = self.rows
        self.rows = grown
        self.free = [*range(old + more - 1, old - 1, -1), *self.free]


class Extension:
    """Gives a language model the keys and values of sessions, and writes those of their new tokens."""

    def __init__(self, pool: PagePool, pages: Tensor, slots: Tensor) -> None:
        """Takes the page tables of all sequences, int32 [P], and the row of every new token, int64 [T]."""
        self._rows, self.pages, self._slots = pool.rows, pages, slots

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        all_keys, all_values = self._rows[layer].unbind(0)
        all_keys.index_copy_(0, self._slots, keys)
        all_values.index_copy_(0, self._slots, values)
        return all_keys, all_values
