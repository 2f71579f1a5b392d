"""The reference's `BatchedKVHelper`, over caches that are padded to one length: ours lie in pages.

Caches that it is given become sessions of a pool. What it lays out for a decoder are the rows of a step of
ours, padded; what the decoder gave goes where these rows say, and states are read back from the sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.cache_utils import DynamicCache

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.streaming import CacheState, EveryChunkStrategy
from gliclass_fast.streaming.pool import Extension, PagePool
from gliclass_fast.streaming.session import Session
from gliclass_fast.streaming.step import LabelPass, SessionStep, StepRows


def rows_of(cache: Any, number: int = 0) -> Tensor:
    """Returns what a padded cache holds of one session, as pages do: [layers, 2, S, G, D]."""
    return torch.stack(
        [torch.stack((each.keys[number], each.values[number])).transpose(1, 2) for each in cache.layers]
    )


def padded_cache(held: Sequence[Tensor]) -> DynamicCache:
    """Returns a cache of sessions, each [layers, 2, S, G, D], with zeros in front of shorter ones."""
    made = DynamicCache()
    for layer, parts in enumerate(zip(*held, strict=True)):
        both = pad_sequence([part.transpose(0, 1) for part in parts], batch_first=True, padding_side="left")
        made.update(both[:, :, 0].transpose(1, 2), both[:, :, 1].transpose(1, 2), layer)
    return made


def pool_like(rows: Tensor) -> PagePool:
    layers, _, _, heads, width = rows.shape
    return PagePool(layers, heads, width, rows.dtype, rows.device)


def session_in(pool: PagePool, ids: Tensor, rows: Tensor | None, state: CacheState | None = None) -> Session:
    """Makes a session of tokens whose keys and values are `rows`; None: there are none."""
    session = Session((state and state.session_id) or "", EveryChunkStrategy(), "")
    session.append(ids.numpy().astype(np.int32))
    session.next_position = len(ids) if state is None else state.next_position
    session.pages = pool.take(session.pages_missing(0))
    if rows is not None:
        pool.restore(session.rows(0, session.cached_length), rows)
    return session


def held_by(pool: PagePool, session: Session, first: int, count: int) -> Tensor:
    return pool.stow(session.rows(session.skipped + first, count), pinned=False).clone()


@dataclass
class Step:
    """Holds sessions with what a step adds to each."""

    pool: PagePool
    steps: list[SessionStep]
    rows: StepRows

    @classmethod
    def of(cls, caches: list[CacheState], ids: list[Tensor], like: Any, labels: bool) -> Step:
        """Appends ids to sessions, or has them classify over these; `like` is a cache, which gives shapes."""
        step = cls(pool_like(torch.empty(1, 2, 0, 1, 1) if like is None else rows_of(like)), [], StepRows())
        for cache, new in zip(caches, ids, strict=True):
            rows = None if cache.past_key_values is None else rows_of(cache.past_key_values)
            session, asked = session_in(step.pool, cache.input_ids, rows, cache), None
            if labels:
                section = new.numpy().astype(np.int32)
                read = EncodedPrompt(section, 0, np.zeros((0, 2), dtype=np.int32))
                asked = LabelPass(section, read, session.cached_length)
            else:
                session.append(new.numpy().astype(np.int32))
            session.pages += step.pool.take(session.pages_missing(len(new) if labels else 0))
            step.steps.append(SessionStep(session, 0 if labels else len(new), asked))
            step.rows.add_step(step.steps[-1])
        return step

    def padded(self) -> dict[str, Any]:
        """Returns the rows as rectangles, and the lengths of what is real in them."""
        new = [len(ids) for ids in self.rows.token_ids]
        cached = [last - first - count for (first, last), count in zip(self.rows.keys, new, strict=True)]
        most = max(cached)
        mask = torch.zeros(len(new), most + max(new), dtype=torch.long)
        for own, before, count in zip(mask, cached, new, strict=True):
            own[most - before : most + count] = 1
        steps = zip(self.steps, cached, strict=True)
        held = [held_by(self.pool, step.session, 0, count) for step, count in steps]
        return {
            "input_ids": rectangle(self.rows.token_ids), "position_ids": rectangle(self.rows.positions),
            "attention_mask": mask, "past_key_values": padded_cache(held) if most else None,
            "lengths": new, "cached_lengths": cached, "max_cached_len": most,
        }  # fmt: skip


def rectangle(rows: Sequence[np.ndarray]) -> Tensor:
    return pad_sequence([torch.from_numpy(row).long() for row in rows], batch_first=True)


def filled(caches: list[CacheState]) -> Any:
    return next((each.past_key_values for each in caches if each.past_key_values is not None), None)


class BatchedKVHelper:
    @staticmethod
    def stack_for_update(
        caches: list[CacheState], ids: list[Tensor], masks: list[Tensor], device: torch.device
    ) -> dict[str, Any]:
        stacked = Step.of(caches, ids, filled(caches), labels=False).padded()
        return stacked | {"new_lengths": stacked["lengths"]}

    @staticmethod
    def stack_for_classify(
        caches: list[CacheState], ids: list[Tensor], masks: list[Tensor], device: torch.device
    ) -> dict[str, Any]:
        stacked = Step.of(caches, ids, filled(caches), labels=True).padded()
        lengths = stacked["lengths"]
        label_mask = pad_sequence([torch.ones(each).long() for each in lengths], batch_first=True)
        return stacked | {
            "label_mask": label_mask, "label_lengths": lengths, "max_label_len": max(lengths)
        }  # fmt: skip

    @staticmethod
    def unstack_after_update(
        given: Any, stacked: dict[str, Any], caches: list[CacheState], ids: list[Tensor], masks: list[Tensor]
    ) -> list[CacheState]:
        """Writes the keys and values of new tokens where a step of ours does, and reads states back."""
        step, first = Step.of(caches, ids, given, labels=False), stacked["max_cached_len"]
        new = [rows_of(given, number)[:, :, first : first + len(own)] for number, own in enumerate(ids)]
        kept = Extension(
            step.pool, torch.tensor(step.rows.pages), torch.from_numpy(np.concatenate(step.rows.slots))
        )
        with torch.inference_mode():
            for layer, (keys, values) in enumerate(torch.cat(new, dim=2)):
                kept.extend(layer, keys, values)
        found = []
        for session in (step.session for step in step.steps):
            held = held_by(step.pool, session, 0, session.cached_length)
            state = session.state(session.cached_length, held.device)
            found.append(replace(state, past_key_values=padded_cache([held])))
        return found

    @staticmethod
    def _slice_past_kv(cache: Any, number: int, start: int, end: int) -> Any:
        """Returns a window of one session's tokens."""
        rows = rows_of(cache, number)
        pool = pool_like(rows)
        session = session_in(pool, torch.zeros(rows.shape[2]), rows)
        return padded_cache([held_by(pool, session, start, end - start)])


NAMES = {"BatchedKVHelper": BatchedKVHelper}
