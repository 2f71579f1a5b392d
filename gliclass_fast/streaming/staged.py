"""Staged chunks: those of a call that is under way, and the answers that it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gliclass_fast.streaming.calls import Chunk
from gliclass_fast.streaming.session import Session
from gliclass_fast.streaming.step import SessionStep
from gliclass_fast.text import results

Answer = dict[str, Any]


@dataclass(slots=True)
class Staged:
    """Holds a chunk with its session as it will be once the call has succeeded."""

    chunk: Chunk
    session: Session
    step: SessionStep


def answers(
    staged: Sequence[Staged],
    logits: Sequence[np.ndarray],
    hierarchical: bool,
    separator: str,
    max_cache_len: int | None,
) -> list[Answer]:
    """Returns what a call returns; the logits are those of the chunks that are classified, in order."""
    asked = [each.chunk for each in staged if each.step.asked is not None]
    names, kinds = [each.labels.names for each in asked], [each.kind for each in asked]
    scores = results.scores_of(names, logits, kinds)
    made = []
    for each in staged:
        chunk = each.chunk
        found: Any = None
        if each.step.asked is not None:
            own = next(scores)
            found = own.predictions(chunk.kind, chunk.threshold)
            if hierarchical:
                found = own.hierarchical(chunk.labels.structure, found, separator)
        made.append(
            {
                "session_id": chunk.session_id,
                "triggered": each.step.asked is not None,
                "predictions": found,
                "cached_length": each.session.kept_length(max_cache_len),
                "tokens_added": each.step.added,
            }
        )
    return made
