"""CacheState: what a session holds, as strategies see it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from gliclass_fast.text.arguments import whole_number


@runtime_checkable
class Cropped(Protocol):
    """Describes keys and values that give their own last tokens."""

    def last(self, length: int) -> Any:
        """Returns the keys and values of the last `length` tokens; those of all tokens stay as they are."""
        ...


@dataclass
class CacheState:
    """Holds S tokens of one session. A window is a state of its own, which leaves the session as it is."""

    past_key_values: Any  # keys and values: of this package, a `DynamicCache` of transformers, or None
    input_ids: Tensor  # [S]
    attention_mask: Tensor  # [S]
    position_ids: Tensor | None = None  # [S]
    cached_length: int = 0  # S
    next_position_id: int | None = None  # see `next_position`
    session_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def next_position(self) -> int:
        """Returns the position of the next token, counted from the session's start, dropped ones included."""
        return self.cached_length if self.next_position_id is None else self.next_position_id

    def to(self, device: torch.device | str) -> CacheState:
        """Returns the same state with its tensors on a device."""
        place = torch.device(device)
        return replace(
            self,
            past_key_values=_moved(self.past_key_values, place),
            input_ids=self.input_ids.to(place),
            attention_mask=self.attention_mask.to(place),
            position_ids=None if self.position_ids is None else self.position_ids.to(place),
            metadata=self.metadata.copy(),
        )


def create_empty_cache(session_id: str | None = None, device: torch.device | str | None = None) -> CacheState:
    """Returns the state of a session that has read nothing."""
    nothing = torch.empty(0, dtype=torch.long, device=device)
    return CacheState(None, nothing, nothing, next_position_id=0, session_id=session_id)


def truncate_cache(cache_state: CacheState, max_length: int) -> CacheState:
    """Returns the state of the last `max_length` tokens, which keep their positions.

    It is the same object where there are no more tokens, or no keys and values, and holds no token where
    `max_length` is below zero. Raises TypeError for keys and values of an unknown kind.
    """
    max_length = max(0, whole_number(max_length, "max_length", least=-sys.maxsize))
    if cache_state.cached_length <= max_length or cache_state.past_key_values is None:
        return cache_state
    kept = slice(cache_state.cached_length - max_length, None)
    places = cache_state.position_ids
    return replace(
        cache_state,
        past_key_values=_last(cache_state.past_key_values, max_length),
        input_ids=cache_state.input_ids[kept],
        attention_mask=cache_state.attention_mask[kept],
        position_ids=None if places is None else places[kept],
        cached_length=max_length,
        next_position_id=cache_state.next_position,
        metadata=cache_state.metadata.copy(),
    )


def _last(past_key_values: Any, length: int) -> Any:
    if isinstance(past_key_values, Cropped):
        return past_key_values.last(length)
    if not hasattr(past_key_values, "layers"):
        raise TypeError(f"keys and values of the type {type(past_key_values).__name__} cannot be cut")
    return _dynamic_cache(past_key_values, lambda rows: rows[:, :, rows.shape[2] - length :])


def _moved(past_key_values: Any, device: torch.device) -> Any:
    if hasattr(past_key_values, "layers"):
        return _dynamic_cache(past_key_values, lambda rows: rows.to(device))
    return past_key_values


def _dynamic_cache(source: Any, change: Any) -> Any:
    """Returns a `DynamicCache` of transformers with the changed keys and values [1, H, S, D] of another."""
    from transformers.cache_utils import DynamicCache  # the import takes a while, and most callers need none

    made = DynamicCache()
    for number, layer in enumerate(source.layers):
        if layer.is_initialized:
            made.update(change(layer.keys), change(layer.values), number)
    return made
