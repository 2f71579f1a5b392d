"""Strategies: they say with which chunks a session is classified, and over how much of what it has read.

Every session has a copy of its own, so a strategy may count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from gliclass_fast.streaming.cache import CacheState, truncate_cache


class ClassificationStrategy(ABC):
    """The base of all strategies; one of your own needs `should_classify` alone."""

    @abstractmethod
    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        """Tells whether to classify with this chunk.

        Asked once for every chunk that adds tokens, before the model reads it; the counts include the chunk.

        Args:
            tokens_added: how many tokens the chunk adds.
            cached_length: how many tokens the session then holds, the new ones included.
            text: the chunk.
        """
        ...

    def get_window(self, cache_state: CacheState) -> CacheState:
        """Returns the part of the session to classify over: all of it, unless a strategy says otherwise."""
        return cache_state


class EveryChunkStrategy(ClassificationStrategy):
    """Classifies with every chunk that adds tokens."""

    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        return tokens_added > 0


class EveryNTokensStrategy(ClassificationStrategy):
    """Classifies once at least `n` tokens came in since the last time, those of the chunk included."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._accumulated = 0

    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        self._accumulated += tokens_added
        if self._accumulated < self.n:
            return False
        self._accumulated = 0
        return True


class OnDelimiterStrategy(ClassificationStrategy):
    """Classifies with a chunk that holds `delimiter`."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter = delimiter

    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        return self.delimiter in text


class NeverStrategy(ClassificationStrategy):
    """Reads and never classifies, for a context that is filled first."""

    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        return False


class SlidingWindowStrategy(EveryChunkStrategy):
    """Classifies with every chunk that adds tokens, over the last `window_size` tokens."""

    def __init__(self, window_size: int) -> None:
        self.window_size = window_size

    def get_window(self, cache_state: CacheState) -> CacheState:
        return truncate_cache(cache_state, self.window_size)


class ComposedStrategy(ClassificationStrategy):
    """Classifies when `trigger` says so, over the window that `window` gives."""

    def __init__(self, trigger: ClassificationStrategy, window: ClassificationStrategy) -> None:
        self.trigger = trigger
        self.window = window

    def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
        return self.trigger.should_classify(tokens_added, cached_length, text)

    def get_window(self, cache_state: CacheState) -> CacheState:
        return self.window.get_window(cache_state)
