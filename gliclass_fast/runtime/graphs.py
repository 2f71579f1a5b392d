"""CUDA graphs: a model's launches recorded once per bucket of sizes, then replayed as a whole.

A pass takes two graphs. The encoder's depends on the bucket of tokens (and where prompts are very short, on
having more tiles), so any number of labels replays it; the tail's (pooling, projectors, scorer) on the
buckets of tokens, prompts and labels. A tail that reads more
than the batch's block, as where labels come as vectors, runs without. Every batch is copied to one static
block of int32, where all graphs read it; encoders leave their states in a static arena, where tails find
them. Batches run one at a time on one stream, so all graphs of a model share one pool of memory.

The first batch of a bucket runs without a graph, which also compiles what it needs; the second is recorded.
Of too many graphs the least recently used one goes; where they hold too much memory, which they share, all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from gliclass_fast.batch import Capacity, EncodedPrompt, Layout, PackedBatch
from gliclass_fast.models.architectures import Network
from gliclass_fast.ops import TILE_ROWS
from gliclass_fast.runtime.inference import LAUNCH_LOCK
from gliclass_fast.runtime.transfer import PendingLogits

MAX_TOKENS = 16384  # longer batches run without graphs
MIN_BUCKET = 16
MIN_TILES = 64
MIN_ARENA = 1024  # tokens
MAX_GRAPHS = 512

Run = Callable[[], Tensor]
Bucket = Capacity | tuple[int, int]  # of a tail, or of an encoder: tokens and tiles


class Recorder(Protocol):
    """What turns launches into something to replay; a device of its own kind in tests."""

    memory_limit: int  # bytes

    def stream_scope(self) -> AbstractContextManager[None]:
        """A stretch of launches, ordered after the caller's earlier ones and before its later ones."""
        ...

    def record(self, run: Run) -> Run:
        """Records what `run` launches, without running it; the result replays it into the same memory.

        To drop the result, once `synchronize` was called, drops the recording.
        """
        ...

    def synchronize(self) -> None:
        """Waits until nothing recorded is running."""
        ...

    def new_pool(self) -> None:
        """After all recordings were dropped: later ones get memory of their own."""
        ...

    def memory(self) -> int:
        """Bytes the recordings hold."""
        ...


class GraphRunner:
    """Runs batches of one model, from graphs where it can. Threads may share it."""

    def __init__(
        self, network: Network, device: torch.device, recorder: Recorder, max_graphs: int = MAX_GRAPHS
    ) -> None:
        """max_graphs: at most so many at a time, two or more: the memory they share lives while one does."""
        self._network, self._recorder, self._max_graphs = network, recorder, max_graphs
        largest = Capacity.padded(MAX_TOKENS, MAX_TOKENS // 2, MAX_TOKENS // 2, tiles=MAX_TOKENS)
        self._block = torch.zeros(Layout.of(largest).size, dtype=torch.int32, device=device)
        self._arenas: dict[int, tuple[Tensor, ...]] = {}
        self._graphs: dict[Bucket, Run] = {}  # the least recently used first
        self._met: set[Bucket] = set()
        self.record_others = True  # batches of sizes that were not recorded yet

    def capacity_for(self, prompts: Sequence[EncodedPrompt]) -> Capacity | None:
        """What a batch of these prompts is padded to, None where it is too large for graphs."""
        tokens = sum([len(prompt.token_ids) for prompt in prompts])
        labels = sum([len(prompt.label_spans) for prompt in prompts])
        bucket = self.bucket(tokens, len(prompts), labels)
        if bucket is None or self._network.score_recordable:
            return bucket
        return Capacity.padded(bucket.tokens, len(prompts), labels, bucket.tiles)

    @staticmethod
    def bucket(tokens: int, prompts: int, labels: int) -> Capacity | None:
        """The bucket of a batch with so many of each, None where it is too large for one.

        Tokens go up in steps of an eighth of the power of two below, and of 16 at least: 6.6 % of padding in
        the mean. Prompts and labels go up by powers of two. Tiles are a quarter of the tokens; where prompts
        are so short that there may be more, they are as many as the tokens.
        """
        step = max(MIN_BUCKET, 1 << max(0, tokens.bit_length() - 4))
        padded = -(-tokens // step) * step
        if padded > MAX_TOKENS or labels > MAX_TOKENS // 2:
            return None
        few_tiles = max(MIN_TILES, padded // 4)
        # a prompt's last tile may hold few rows, and so may that of the padding; all others are full
        tiles = few_tiles if prompts + 1 + padded // TILE_ROWS <= few_tiles else max(few_tiles, padded)
        return Capacity.padded(padded, _power_of_2(prompts), _power_of_2(labels), tiles)

    @property
    def memory(self) -> int:
        """Bytes of device memory: graphs, arenas and block."""
        states = sum(state.nbytes for arena in self._arenas.values() for state in arena)
        return self._recorder.memory() + states + self._block.nbytes

    @property
    def count(self) -> int:
        """Graphs held."""
        return len(self._graphs)

    def free(self) -> None:
        """Gives back the memory of all graphs and arenas, which are made anew when next wanted."""
        with LAUNCH_LOCK, self._recorder.stream_scope():
            self._clear()

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch) -> PendingLogits:
        """Launches a batch on the host, padded to its capacity."""
        with LAUNCH_LOCK, self._recorder.stream_scope():
            try:
                return self._launch(batch)
            except BaseException:
                self._clear()  # whatever a failed recording left in the memory that all share
                raise

    def _launch(self, batch: PackedBatch) -> PendingLogits:
        self._block[: len(batch.block)].copy_(batch.block, non_blocking=True)
        capacity, static = batch.capacity, batch.on(self._block)
        self._run((capacity.tokens, capacity.tiles), lambda: self._encode(static))
        if self._network.score_recordable:
            logits = self._run(capacity, lambda: self._score(static))
        else:
            logits = self._score(static)
        return PendingLogits.copy(logits[:, : batch.num_labels])

    def _run(self, bucket: Bucket, run: Run) -> Tensor:
        if bucket not in self._met or not (self.record_others or bucket in self._graphs):
            out = run()
            self._met.add(bucket)
            return out
        replay = self._graphs.pop(bucket, None) or self._record(run)
        self._graphs[bucket] = replay
        return replay()

    def _record(self, run: Run) -> Run:
        if self._recorder.memory() > self._recorder.memory_limit:
            self._drop_graphs()
        elif len(self._graphs) >= self._max_graphs:
            self._recorder.synchronize()
            del self._graphs[next(iter(self._graphs))]
        return self._recorder.record(run)

    def _encode(self, batch: PackedBatch) -> Tensor:
        states = self._network.encode(batch)
        arena = self._arena(batch, states)
        for place, state in zip(arena, states, strict=True):
            place.copy_(state)
        return arena[0]

    def _score(self, batch: PackedBatch) -> Tensor:
        return self._network.score(self._arena(batch), batch).stacked_logits()

    def _arena(self, batch: PackedBatch, states: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
        """Where the states of a batch are, [T, C] each; made for `states` where no batch of its size was."""
        tokens = batch.capacity.tokens
        rows = max(MIN_ARENA, 1 << (tokens - 1).bit_length())
        if rows not in self._arenas:
            self._arenas[rows] = tuple(state.new_empty(rows, state.shape[1]) for state in states)
        return tuple(place[:tokens] for place in self._arenas[rows])

    def _drop_graphs(self) -> None:
        self._recorder.synchronize()
        self._graphs.clear()
        self._recorder.new_pool()

    def _clear(self) -> None:
        self._drop_graphs()
        self._arenas.clear()
        self._met.clear()


def _power_of_2(count: int) -> int:
    """The bucket of a number of prompts or labels."""
    return max(MIN_BUCKET, 1 << (count - 1).bit_length())
