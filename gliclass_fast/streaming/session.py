"""Session: what one stream has read, as pages of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.ops import PAGE_ROWS
from gliclass_fast.streaming.cache import CacheState
from gliclass_fast.streaming.strategies import ClassificationStrategy

_NOTHING = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class Window:
    """Stands for the keys and values of a session's last tokens, which lie in the pool's pages."""

    session_id: str
    length: int

    def last(self, length: int) -> Window:
        return replace(self, length=min(length, self.length))


@dataclass(slots=True)
class Session:
    """Holds one session; its tokens are rows `skipped` to `skipped + cached_length` of its pages."""

    session_id: str
    strategy: ClassificationStrategy
    prefix: str  # prompt and examples, which were read in front of the first chunk
    metadata: dict[str, Any] = field(default_factory=dict)  # what its strategy writes down
    token_ids: np.ndarray = field(default_factory=_NOTHING.copy)  # int32 [cached_length]
    pages: list[int] = field(default_factory=list)
    skipped: int = 0  # rows of the first page that a limit has dropped
    next_position: int = 0  # the position of the next token, dropped ones included
    last_used: int = 0  # the number of the call
    # keys and values in host memory, [layers, 2, S, G, D], where it waits without pages
    stowed: Tensor | None = None

    @property
    def cached_length(self) -> int:
        return len(self.token_ids)

    def kept_length(self, limit: int | None) -> int:
        """Counts the tokens that it keeps where a session keeps at most `limit`."""
        return self.cached_length if limit is None else min(self.cached_length, limit)

    @property
    def end(self) -> int:
        """Returns the row behind the last token, counted over the pages."""
        return self.skipped + self.cached_length

    def copy(self, strategy: ClassificationStrategy, metadata: dict[str, Any]) -> Session:
        """Returns the same session, which may change while this one stays."""
        return replace(self, strategy=strategy, metadata=metadata, pages=self.pages.copy())

    def rows(self, first: int, count: int) -> np.ndarray:
        """Returns the rows of the pool that rows `first` to `first + count` of its pages are, int64."""
        places = np.arange(first, first + count)
        rows: np.ndarray = np.array(self.pages)[places // PAGE_ROWS] * PAGE_ROWS + places % PAGE_ROWS
        return rows

    def append(self, token_ids: np.ndarray) -> None:
        """Counts new tokens."""
        self.token_ids = np.concatenate((self.token_ids, token_ids))
        self.next_position += len(token_ids)

    def pages_missing(self, more_rows: int) -> int:
        """Counts the pages that it lacks for its tokens and so many rows behind them."""
        return -(-(self.end + more_rows) // PAGE_ROWS) - len(self.pages)

    def spare_pages(self) -> list[int]:
        """Gives up the pages behind the last token, and returns them."""
        needed = -(-self.end // PAGE_ROWS)
        spare, self.pages = self.pages[needed:], self.pages[:needed]
        return spare

    def keep_last(self, length: int) -> list[int]:
        """Drops all but the last tokens; returns the pages that are free then."""
        dropped = max(0, self.cached_length - length)
        self.token_ids = self.token_ids[dropped:].copy() if dropped else self.token_ids
        whole, self.skipped = divmod(self.skipped + dropped, PAGE_ROWS)
        free, self.pages = self.pages[:whole], self.pages[whole:]
        return free

    def wait_with(self, stowed: Tensor) -> list[int]:
        """Takes a copy of all its keys and values in host memory; returns its pages, which are free then."""
        free, self.pages, self.skipped, self.stowed = self.pages, [], 0, stowed
        return free

    def state(self, length: int, device: torch.device) -> CacheState:
        """Returns what a strategy sees of the last `length` tokens."""
        ids = torch.from_numpy(self.token_ids[self.cached_length - length :]).to(device, torch.long)
        return CacheState(
            past_key_values=Window(self.session_id, length),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            cached_length=length,
            next_position_id=self.next_position,
            session_id=self.session_id,
            metadata=self.metadata | {"prefix": self.prefix},
        )

    def window(self, length: int, device: torch.device) -> int:
        """Returns how many of the last `length` tokens the strategy classifies over.

        Raises ValueError where its `get_window` returns something else than (a part of) what it was given.
        """
        found = self.strategy.get_window(self.state(length, device))
        same = isinstance(found, CacheState) and found.next_position == self.next_position
        if not same or Window(self.session_id, found.cached_length) != found.past_key_values:
            raise ValueError(
                f"{type(self.strategy).__name__}.get_window must return the state that it was given, or what "
                "truncate_cache makes of it; tokens keep their positions"
            )
        if not isinstance(found.metadata, dict):
            raise ValueError(f"{type(self.strategy).__name__}.get_window must leave `metadata` a dict")
        self.metadata = found.metadata
        return found.cached_length


def total_tokens(sessions: Sequence[Session]) -> int:
    """Counts the tokens that sessions hold."""
    return sum([session.cached_length for session in sessions])
