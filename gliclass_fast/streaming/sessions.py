"""Sessions: the streams of a pipeline between its calls, and which of them have to leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gliclass_fast.streaming.pool import PagePool
from gliclass_fast.streaming.session import Session, total_tokens

MOST_REMEMBERED = 65536  # sessions that left for others, whose names are kept


class Sessions(Mapping[str, Session]):
    """Holds sessions by name, the oldest first, in the pages of `pool`."""

    def __init__(self) -> None:
        self.pool: PagePool
        self.offloads = self.pins = False  # whether keys and values wait in host memory, page-locked
        self.calls = 0
        self._held: dict[str, Session] = {}
        self._left: dict[str, None] = {}

    def __getitem__(self, name: str) -> Session:
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def has_left(self, name: str) -> bool:
        """Tells whether a session left to make room for others, and nobody deleted it since."""
        return name in self._left

    def delete(self, names: Sequence[str]) -> list[str]:
        """Deletes sessions, forgets that they left, and returns those that there were."""
        for name in names:
            self._left.pop(name, None)
        found = [name for name in dict.fromkeys(names) if name in self._held]
        for name in found:
            self.pool.give(self._held.pop(name).pages)
        return found

    def clear(self) -> None:
        self._left.clear()
        self.delete(list(self._held))

    def keep(
        self,
        sessions: Sequence[Session],
        drop_absent: bool,
        max_cache_len: int | None,
        max_cached_tokens: int | None,
    ) -> None:
        """Takes the sessions of a call that has succeeded, and gives free pages back.

        The arguments are those of the pipeline.
        """
        named = {session.session_id for session in sessions}
        if drop_absent:
            self.delete([name for name in self._held if name not in named])
            self._left.clear()
        for session in sessions:
            self.pool.give(session.spare_pages())
            if max_cache_len is not None:
                self.pool.give(session.keep_last(max_cache_len))
            if self.offloads and session.cached_length:
                held = session.rows(session.skipped, session.cached_length)
                session.stowed, session.skipped = self.pool.stow(held, self.pins), 0
                self.pool.give(session.pages)
                session.pages = []
            self._held[session.session_id] = session
        self.calls += 1
        if max_cached_tokens is not None:
            self._make_room(named, max_cached_tokens)

    def _make_room(self, named: set[str], most: int) -> None:
        """Has the sessions that were used least recently leave, but none of those that are named."""
        excess = total_tokens(list(self._held.values())) - most
        others = [each for name, each in self._held.items() if name not in named]
        for each in sorted(others, key=lambda session: session.last_used):
            if excess <= 0:
                break
            excess -= each.cached_length
            self.delete([each.session_id])
            self._left[each.session_id] = None
            if len(self._left) > MOST_REMEMBERED:
                self._left.pop(next(iter(self._left)))
