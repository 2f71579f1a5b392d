"""A step: new tokens of sessions and label sections go through the language model in one packed call.

Every session has up to two sequences in it. Its new tokens see what it holds and themselves. Its label
section, where it classifies now, sees a window of that and of the new tokens, which the same call reads. The
section's own keys and values go to rows behind the session's last token, and are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.models.architectures import Streamable
from gliclass_fast.models.decoders import Tokens
from gliclass_fast.ops import PAGE_ROWS, Sequences
from gliclass_fast.runtime.loaded import LoadedNetwork
from gliclass_fast.runtime.packing import check_tokens, work_list
from gliclass_fast.runtime.transfer import PendingLogits
from gliclass_fast.streaming.pool import Extension, PagePool
from gliclass_fast.streaming.session import Session


@dataclass(frozen=True, slots=True)
class LabelPass:
    """Asks for the scores of labels."""

    token_ids: np.ndarray  # int32: the label section with the <<SEP>> in front of it
    section: EncodedPrompt  # what the scorer reads of it, its end
    window: int  # tokens of the session that the labels see


@dataclass(frozen=True, slots=True)
class SessionStep:
    """Holds what one session does in a step; the session counts its new tokens already."""

    session: Session
    added: int  # how many of its tokens are new
    asked: LabelPass | None

    @property
    def rows(self) -> int:
        """Counts the tokens to run."""
        return self.added + self._behind

    @property
    def _behind(self) -> int:
        """Counts the tokens of the label section."""
        return 0 if self.asked is None else len(self.asked.token_ids)

    @property
    def pages_missing(self) -> int:
        """Counts the pages that the session lacks for what it does."""
        return max(0, self.session.pages_missing(self._behind))


@dataclass(slots=True)
class StepRows:
    """Collects the rows of a step, sequence by sequence, in plain Python and NumPy."""

    token_ids: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    slots: list[np.ndarray] = field(default_factory=list)  # the pool's rows of a token's keys and values
    keys: list[tuple[int, int]] = field(default_factory=list)  # the rows that a sequence sees, over `pages`
    pages: list[int] = field(default_factory=list)  # the pages of all sessions
    scored: list[np.ndarray] = field(default_factory=list)  # the rows that the scorer reads

    def add_step(self, step: SessionStep) -> None:
        """Adds the new tokens and the label section of a session.

        They are one sequence where they see the same tokens, which is faster than two.
        """
        session, base = step.session, len(self.pages) * PAGE_ROWS
        self.pages += session.pages
        new = session.token_ids[session.cached_length - step.added :]
        place, first_key = session.end - step.added, session.skipped
        if step.asked is None:
            self._add(session, new, place, first_key, base)
            return
        labels, window_start = step.asked.token_ids, session.end - step.asked.window
        if window_start == first_key:
            self._add(session, np.concatenate((new, labels)), place, first_key, base)
        else:
            self._add(session, new, place, first_key, base)
            self._add(session, labels, session.end, window_start, base)
        total = sum(map(len, self.token_ids))
        self.scored.append(np.arange(total - len(step.asked.section.token_ids), total))

    def _add(self, session: Session, ids: np.ndarray, place: int, first_key: int, base: int) -> None:
        """Adds a sequence whose first token is in row `place` of the session's pages.

        base: where these pages start among those of the step.
        """
        if not len(ids):
            return
        self.token_ids.append(ids)
        self.positions.append(np.arange(place, place + len(ids)) + (session.next_position - session.end))
        self.slots.append(session.rows(place, len(ids)))
        self.keys.append((base + first_key, base + place + len(ids)))


def run_step(loaded: LoadedNetwork, pool: PagePool, steps: Sequence[SessionStep]) -> PendingLogits | None:
    """Runs the steps, whose sessions have the pages for it, with a network that streams can run.

    Returns the logits of all that is asked for, in order, or None where nothing is asked for. Only rows
    behind what the sessions held before are written: a step that fails leaves them as they were.

    Raises IndexError for a token that has no embedding.
    """
    rows = StepRows()
    for step in steps:
        rows.add_step(step)
    if not rows.token_ids:
        return None
    network = loaded.network.as_streamable()
    assert network is not None
    asked = [step.asked.section for step in steps if step.asked is not None]
    with loaded.inference(), pool.stream_scope():
        read = _read(loaded, network, pool, rows)
        if not asked:
            return None
        scored = _on(np.concatenate(rows.scored), loaded.device)
        x, attended = (each[scored] for each in read)
        own = network.decoder.last_feed_forward(x, attended)
        sections = loaded.pack(asked).to(loaded.device)
        return PendingLogits.copy(network.score_sections(own, sections).stacked_logits())


def _read(
    loaded: LoadedNetwork, network: Streamable, pool: PagePool, rows: StepRows
) -> tuple[Tensor, Tensor]:
    """Returns what `last_attention` of the language model gives of all rows, [T, *] each."""
    bounds = np.cumsum([0, *map(len, rows.token_ids)], dtype=np.int32)
    keys = np.array(rows.keys, dtype=np.int32)
    tiles = work_list(bounds, keys)
    # a tile's keys end where those of its last row do
    owner = bounds.searchsorted(tiles[1:, 0], side="right") - 1
    tiles[1:, 3] -= bounds[1:][owner] - tiles[1:, 1]
    token_ids, positions = np.concatenate(rows.token_ids), np.concatenate(rows.positions)
    check_tokens(token_ids, loaded.config.backbone_config.vocab_size)
    fields = [token_ids, positions, bounds, keys, tiles, np.array(rows.pages)]
    ids, places, cu, spans, work, pages = (_on(each, loaded.device, torch.int32) for each in fields)
    kept = Extension(pool, pages, _on(np.concatenate(rows.slots), loaded.device))
    sequences = Sequences(cu, spans, work, int(np.diff(bounds).max()))
    tokens = Tokens(ids, places, sequences, longest=int(positions.max()) + 1)
    return network.decoder.last_attention(tokens, kept)


def _on(values: np.ndarray, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.from_numpy(values).to(dtype).to(device, non_blocking=True)
