"""Compiles and records what batches of chosen sizes need, before the first of them comes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.runtime.loaded import PROBE_SIZES, LoadedNetwork


def warm_up(
    loaded: LoadedNetwork,
    tokens: Sequence[int],
    labels: Sequence[int],
    prompts: Sequence[int],
    record_others: bool,
) -> None:
    """Runs every combination of sizes with random tokens, as `GLiClassModel.warm_up` says.

    Each runs twice: the first run compiles, and the second is recorded.
    """
    batches = [random_batch(loaded, *size) for size in product(tokens, labels, prompts)]
    if loaded.graphs is not None:
        loaded.graphs.record_others = True
    for batch in batches:
        for _ in range(2):
            loaded.score(batch).wait()
    if loaded.graphs is not None:
        loaded.graphs.record_others = record_others


def random_batch(loaded: LoadedNetwork, tokens: int, labels: int, prompts: int) -> list[EncodedPrompt]:
    """Returns prompts of random tokens with so many tokens, labels and prompts in all.

    There are more prompts where they would be longer than 512 tokens, and more labels where a prompt would
    have none. Raises ValueError where a prompt would have fewer than 2 + 2 * labels tokens.
    """
    count = max(prompts, -(-tokens // max(length for length, _ in PROBE_SIZES)))
    totals = (tokens, max(labels, count))
    shares = [[total // count + (index < total % count) for index in range(count)] for total in totals]
    sizes = list(zip(*shares, strict=True))
    if any(length < 2 + 2 * own for length, own in sizes):
        raise ValueError(f"{tokens} tokens have no room for {labels} labels in {count} prompts")
    return loaded.probe(sizes)
