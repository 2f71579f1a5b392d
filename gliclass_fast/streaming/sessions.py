"""Sessions: the streams of a pipeline between its calls, and which of them have to leave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

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

    def copy(self) -> Sessions:
        """Returns the same sessions with their keys and values in host memory, and without a pool."""
        twin = Sessions()
        twin.calls, twin._left, twin.pins = self.calls, self._left.copy(), self.pins
        for name, session in self._held.items():
            twin._held[name] = own = session.copy(session.strategy)
            if session.pages:
                own.wait_with(self._stow(session, session.cached_length))
        return twin

    def _stow(self, session: Session, length: int) -> Tensor:
        """Returns a copy of the keys and values of a session's last tokens in host memory."""
        return self.pool.stow(session.rows(session.end - length, length), self.pins)

    def stow(self, sessions: Sequence[Session], max_cache_len: int | None) -> list[Tensor | None]:
        """Returns, for `keep`, what the sessions of a call keep in host memory, where they wait there."""
        if not self.offloads:
            return [None] * len(sessions)
        lengths = [min(each.cached_length, max_cache_len or each.cached_length) for each in sessions]
        return [
            self._stow(each, length) if length else None
            for each, length in zip(sessions, lengths, strict=True)
        ]

    def keep(
        self,
        sessions: Sequence[Session],
        stowed: Sequence[Tensor | None],
        drop_absent: bool,
        max_cache_len: int | None,
        max_cached_tokens: int | None,
    ) -> None:
        """Takes the sessions of a call that has succeeded, and gives free pages back.

        The arguments are those of the pipeline, and what `stow` returned.
        """
        named = {session.session_id for session in sessions}
        if drop_absent:
            self.delete([name for name in self._held if name not in named])
            self._left.clear()
        for session, waiting in zip(sessions, stowed, strict=True):
            self.pool.give(session.spare_pages())
            if max_cache_len is not None:
                self.pool.give(session.keep_last(max_cache_len))
            if waiting is not None:
                self.pool.give(session.wait_with(waiting))
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
