"""Strategies trigger and cut windows as the reference's do, over states of the same form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gliclass import streaming as reference
from transformers.cache_utils import DynamicCache

from gliclass_fast import streaming

CHUNKS = [(1, "a"), (0, ""), (3, "one. two"), (40, "x"), (7, "\n\n"), (2, "."), (5, ""), (9, "end.")]


def made_in(package: Any) -> list[Any]:
    every, window = package.EveryNTokensStrategy(8), package.SlidingWindowStrategy(4)
    return [
        package.EveryChunkStrategy(),
        package.EveryNTokensStrategy(n=4),
        package.OnDelimiterStrategy(delimiter="."),
        package.NeverStrategy(),
        package.SlidingWindowStrategy(window_size=6),
        package.ComposedStrategy(trigger=every, window=window),
        package.ComposedStrategy(trigger=package.OnDelimiterStrategy("x"), window=package.NeverStrategy()),
    ]


def state(package: Any, length: int, positions: bool = False) -> Any:
    """A session of two layers, whose tokens and values are counted, and which dropped five tokens."""
    kept = DynamicCache()
    for layer in range(2):
        rows = torch.arange(2 * length * 3.0).view(1, 2, length, 3) + layer
        kept.update(rows, -rows, layer)
    ids, places = torch.arange(length), torch.arange(5, 5 + length) if positions else None
    about = {"prefix": "p"}
    return package.CacheState(kept, ids, torch.ones_like(ids), places, length, length + 5, "s", about)


def contents(found: Any) -> list[Any]:
    layers = [] if found.past_key_values is None else found.past_key_values.layers
    tensors = [found.input_ids, found.attention_mask, found.position_ids]
    tensors += [rows for layer in layers for rows in (layer.keys, layer.values)]
    return [
        *(None if rows is None else rows.tolist() for rows in tensors),
        *(found.cached_length, found.next_position_id, found.next_position, found.session_id, found.metadata),
    ]


@pytest.mark.parametrize(("ours", "theirs"), zip(made_in(streaming), made_in(reference), strict=True))
def test_strategies_equal_the_reference(ours: Any, theirs: Any) -> None:
    for total, (added, text) in enumerate(CHUNKS):
        found = ours.should_classify(added, 10 + total, text)
        assert found is theirs.should_classify(added, 10 + total, text)
    for length in (3, 12):
        whole = state(streaming, length)
        window = ours.get_window(whole)
        assert contents(window) == contents(theirs.get_window(state(reference, length)))
        assert (window is whole) == (window.cached_length == length)
        assert contents(whole) == contents(state(reference, length))


@pytest.mark.parametrize(
    "change",
    [
        lambda package: package.create_empty_cache(),
        lambda package: package.create_empty_cache("s", "cpu"),
        lambda package: package.truncate_cache(package.create_empty_cache("s"), 3),
        lambda package: package.truncate_cache(state(package, 9, positions=True), 4),
        lambda package: package.truncate_cache(package.truncate_cache(state(package, 9), 7), 2),
        lambda package: state(package, 4, positions=True).to(torch.device("cpu")),
    ],
)
def test_states_equal_the_reference(change: Callable[[Any], Any]) -> None:
    assert contents(change(streaming)) == contents(change(reference))


def test_a_strategy_of_your_own_needs_one_method() -> None:
    class Third(streaming.ClassificationStrategy):
        calls = 0

        def should_classify(self, tokens_added: int, cached_length: int, text: str) -> bool:
            self.calls += 1
            return self.calls == 3

    strategy, whole = Third(), state(streaming, 2)
    assert [strategy.should_classify(1, 1, "") for _ in range(4)] == [False, False, True, False]
    assert strategy.get_window(whole) is whole
    with pytest.raises(TypeError, match="abstract"):
        streaming.ClassificationStrategy()  # type: ignore[abstract]
    unknown = streaming.CacheState("rows", torch.arange(3), torch.ones(3), cached_length=3)
    with pytest.raises(TypeError, match="type str cannot be cut"):
        streaming.truncate_cache(unknown, 1)
