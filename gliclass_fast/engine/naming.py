"""Naming: how messages name the texts of a call."""

from __future__ import annotations

from collections.abc import Iterable

MOST_NAMED = 10  # texts that one message names


def named(numbers: Iterable[int]) -> str:
    """Returns "text 3, 7 (counted from 0)" for the numbers of texts, each said once, the first few alone."""
    own = sorted(set(numbers))
    more = f" and {len(own) - MOST_NAMED} more" if len(own) > MOST_NAMED else ""
    return f"text {', '.join(map(str, own[:MOST_NAMED]))}{more} (counted from 0)"
