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
        self.settled = True  # Nothing was interrupted between what is held and what is free.
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
        self.settled = False
        for name in found:
            self._give(self._held.pop(name).pages)
        self.settled = True
        return found

    def clear(self) -> None:
        """Deletes all sessions, and gives their memory back."""
        self._left.clear()
        self.settled = False
        self._held = {}
        self.pool.empty()
        self.settled = True

    def _give(self, pages: Sequence[int]) -> None:
        """Gives pages back, and all memory where no session is left."""
        if self._held:
            self.pool.give(pages)
        else:
            self.pool.empty()

    def settle(self) -> None:
        """Gives back what a call took that has failed, or that was interrupted wherever it was."""
        if self._held:
            self.pool.keep_only([session.pages for session in self._held.values()])
        else:
            self.pool.empty()
        self.settled = True

    def copy(self) -> Sessions:
        """Returns the same sessions with their keys and values in host memory, and without a pool."""
        twin = Sessions()
        twin.calls, twin._left, twin.pins = self.calls, self._left.copy(), self.pins
        for name, session in self._held.items():
            twin._held[name] = own = session.copy(session.strategy, session.metadata)
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
        lengths = [each.kept_length(max_cache_len) for each in sessions]
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

        The arguments are those of the pipeline, and what `stow` returned. All sessions are exchanged at
        once: an interrupt finds either those of before or those of after the call.
        """
        named = {session.session_id: session for session in sessions}
        held = {name: each for name, each in self._held.items() if not drop_absent or name in named}
        free = [each.pages for name, each in self._held.items() if name not in held]
        for session, waiting in zip(sessions, stowed, strict=True):
            free.append(session.spare_pages())
            if max_cache_len is not None:
                free.append(session.keep_last(max_cache_len))
            if waiting is not None:
                free.append(session.wait_with(waiting))
        held |= named
        left = {} if max_cached_tokens is None else self._too_many(held, named, max_cached_tokens)
        free += [held.pop(name).pages for name in left]
        if drop_absent:
            self._left.clear()
        self._left |= left
        while len(self._left) > MOST_REMEMBERED:
            self._left.pop(next(iter(self._left)))
        self._held, self.calls = held, self.calls + 1
        self._give([page for pages in free for page in pages])
        self.settled = True

    @staticmethod
    def _too_many(held: Mapping[str, Session], named: Mapping[str, Session], most: int) -> dict[str, None]:
        """Names the sessions that leave: those that were used least recently, and none of those named."""
        excess, left = total_tokens(list(held.values())) - most, dict[str, None]()
        others = [each for name, each in held.items() if name not in named and each.cached_length]
        for each in sorted(others, key=lambda session: session.last_used):
            if excess <= 0:
                break
            excess -= each.cached_length
            left[each.session_id] = None
        return left
