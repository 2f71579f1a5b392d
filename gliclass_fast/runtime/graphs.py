"""CUDA graphs: a model's launches are recorded once per bucket of sizes, then replayed as a whole.

A pass takes two graphs. The backbone's graph depends on the bucket of tokens (and, where prompts are very
short, on a larger number of tiles), so any number of labels replays it. The tail's graph (pooling,
projectors, scorer) depends on the buckets of tokens, prompts and labels. A tail that reads more than the
batch's block, as where labels come as vectors, runs without a graph. Every batch is copied to one static
block of int32, where all graphs read it. Tails read the hidden states where their backbone's graph leaves
them, so they are kept and dropped together. Batches run one at a time on one stream, so all graphs of a
model share one pool of memory; only the states of each backbone have a place of their own there.

The first batch of a bucket runs without a graph, which also compiles what it needs; the second is recorded.
Where there are too many graphs, those of the least recently used backbone are dropped. Where they hold too
much memory, all are dropped, as they share it. Where a recording fails, and not for want of memory, it is
the last one: the graphs that are there stay, and all other batches run without.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from traceback import clear_frames
from typing import Any, Protocol

import torch
from torch import Tensor

from gliclass_fast.batch import Capacity, EncodedPrompt, Layout, PackedBatch
from gliclass_fast.models.architectures import Network
from gliclass_fast.ops import TILE_ROWS
from gliclass_fast.runtime.shortage import is_shortage
from gliclass_fast.runtime.transfer import LAUNCH_LOCK, PendingLogits

logger = logging.getLogger(__name__)

MAX_TOKENS = 16384  # longer batches run without graphs
# Smaller batches are padded to these sizes, so that they share one graph. Any numbers near these work.
MIN_BUCKET = 16  # tokens, prompts or labels
MIN_TILES = 64  # of the work list
MAX_GRAPHS = 512  # a bound beside that of their memory; any number near it works

Run = Callable[[], tuple[Tensor, ...]]
Bucket = tuple[int, int, bool]  # what a backbone reads of a capacity: tokens, tiles, adapted


class Recorder(Protocol):
    """Turns launches into something that can be replayed; tests have a recorder of their own."""

    memory_limit: int  # bytes

    def stream_scope(self) -> AbstractContextManager[None]:
        """Orders the launches made in it after the caller's earlier ones and before its later ones."""
        ...

    def record(self, run: Run) -> Run:
        """Records what `run` launches, without running it; the result replays it into the same memory.

        A caller drops the recording when it drops the result, after a call of `synchronize`.
        """
        ...

    def synchronize(self) -> None:
        """Waits until nothing recorded is running."""
        ...

    def new_pool(self) -> None:
        """Gives later recordings memory of their own; needed where all earlier ones were dropped."""
        ...

    def memory(self) -> int:
        """Counts the bytes that the recordings hold."""
        ...


@dataclass(frozen=True, slots=True)
class Graph:
    """Holds a recording, and those that read what it gives."""

    replay: Run
    tails: dict[Capacity, Graph] = field(default_factory=dict)


class GraphRunner:
    """Runs batches of one model, from graphs where it can. Threads may share it."""

    def __init__(
        self, network: Network, device: torch.device, recorder: Recorder, max_graphs: int = MAX_GRAPHS
    ) -> None:
        """Keeps at most `max_graphs` graphs, two or more."""
        self._network, self._recorder, self._max_graphs = network, recorder, max_graphs
        largest = Capacity.padded(MAX_TOKENS, MAX_TOKENS // 2, MAX_TOKENS // 2, tiles=MAX_TOKENS)
        largest = replace(largest, adapted=True)
        self._block = torch.zeros(Layout.of(largest).size, dtype=torch.int32, device=device)
        self._backbones: OrderedDict[Bucket, Graph] = OrderedDict()  # the least recently used first
        self._met: set[Bucket | Capacity] = set()
        self.record_others = True  # whether to record batches of sizes that were not recorded yet
        self._recordable = True  # until a recording fails

    def capacity_for(self, prompts: Sequence[EncodedPrompt]) -> Capacity | None:
        """Returns what a batch of these prompts is padded to, or None where it is too large for graphs."""
        tokens = sum([len(prompt.token_ids) for prompt in prompts])
        labels = sum([len(prompt.label_spans) for prompt in prompts])
        bucket = self.bucket(tokens, len(prompts), labels)
        if bucket is None or self._network.score_recordable:
            return bucket
        return Capacity.padded(bucket.tokens, len(prompts), labels, bucket.tiles)

    @staticmethod
    def bucket(tokens: int, prompts: int, labels: int) -> Capacity | None:
        """Returns the bucket of a batch with so many of each, or None where it is too large for one.

        Tokens go up in steps of an eighth of the power of two below, and of 16 at least, which pads by 6.6 %
        on average. Prompts and labels go up by powers of two. There are a quarter as many tiles as tokens,
        or as many as tokens where prompts are so short that they may take more than a quarter.
        """
        step = max(MIN_BUCKET, 1 << max(0, tokens.bit_length() - 4))
        padded = -(-tokens // step) * step
        if padded > MAX_TOKENS or labels > MAX_TOKENS // 2:
            return None
        few_tiles = max(MIN_TILES, padded // 4)
        # The last tile of a prompt may hold few rows, and so may that of the padding; all others are full.
        tiles = few_tiles if prompts + 1 + padded // TILE_ROWS <= few_tiles else max(few_tiles, padded)
        return Capacity.padded(padded, _power_of_2(prompts), _power_of_2(labels), tiles)

    @property
    def memory(self) -> int:
        """Counts the bytes of device memory that the graphs and the block hold."""
        return self._recorder.memory() + self._block.nbytes

    @property
    def count(self) -> int:
        """Counts the graphs that are held."""
        # a list, as another thread may record meanwhile
        return sum(1 + len(backbone.tails) for backbone in list(self._backbones.values()))

    def free(self) -> None:
        """Gives back the memory of all graphs, which are recorded anew when they are next needed."""
        with LAUNCH_LOCK, self._recorder.stream_scope():
            self._clear()

    @torch.inference_mode()
    def __call__(self, batch: PackedBatch) -> PendingLogits:
        """Launches a batch that is on the host and padded to its capacity."""
        with LAUNCH_LOCK, self._recorder.stream_scope():
            try:
                return self._launch(batch)
            except BaseException as error:
                clear_frames(error.__traceback__)  # else who keeps the error keeps graphs
                self._clear()  # a failed recording may have left something in the memory that all share
                raise

    def _launch(self, batch: PackedBatch) -> PendingLogits:
        self._block[: len(batch.block)].copy_(batch.block, non_blocking=True)
        capacity, static = batch.capacity, batch.on(self._block)
        bucket = (capacity.tokens, capacity.tiles, capacity.adapted)

        def encode() -> tuple[Tensor, ...]:
            return self._network.encode(static)

        if bucket in self._backbones:
            self._backbones.move_to_end(bucket)
        # Before anything runs: a tail must not outlive the states that it reads.
        if wanted := self._count_wanted(bucket, capacity):
            self._make_room(wanted)
        backbone = self._graph(self._backbones, bucket, encode)
        states = encode() if backbone is None else backbone.replay()

        def score() -> tuple[Tensor, ...]:
            return (self._network.score(states, static).stacked_logits(),)

        tail = None
        if backbone is not None and self._network.score_recordable:
            tail = self._graph(backbone.tails, capacity, score)
        [logits] = score() if tail is None else tail.replay()
        self._met.add(bucket)
        if self._network.score_recordable:  # else there is no bound of how many there are
            self._met.add(capacity)
        return PendingLogits.copy(logits[:, : batch.num_labels])

    def _count_wanted(self, bucket: Bucket, capacity: Capacity) -> int:
        """Counts the graphs that a batch will have recorded."""
        backbone = self._backbones.get(bucket)
        new_tail = self._network.score_recordable and (backbone is None or capacity not in backbone.tails)
        return (backbone is None and self._may_record(bucket)) + (new_tail and self._may_record(capacity))

    def _may_record(self, bucket: Bucket | Capacity) -> bool:
        return self.record_others and self._recordable and bucket in self._met

    def _graph(self, graphs: dict[Any, Graph], bucket: Bucket | Capacity, run: Run) -> Graph | None:
        """Returns the graph of a bucket, which may be recorded now, or None where there is none."""
        graph = graphs.get(bucket)
        if graph is None and self._may_record(bucket) and (graph := self._record(run)) is not None:
            graphs[bucket] = graph
        return graph

    def _make_room(self, wanted: int) -> None:
        """Drops graphs until there is room for so many more."""
        if self._recorder.memory() > self._recorder.memory_limit:
            self._drop_graphs()
        while self.count + wanted > self._max_graphs:
            if len(self._backbones) == 1:
                self._drop_graphs()
            else:
                self._recorder.synchronize()
                self._backbones.popitem(last=False)

    def _record(self, run: Run) -> Graph | None:
        """Returns a recording, or None where nothing can be recorded any more."""
        try:
            return Graph(self._recorder.record(run))
        except Exception as error:
            if is_shortage(error):
                raise
            self._recordable = False
            # not the error itself, as who keeps the line would keep what its frames hold
            logger.warning(_NO_MORE_GRAPHS, type(error).__name__, str(error).partition("\n")[0])
            return None

    def _drop_graphs(self) -> None:
        self._recorder.synchronize()
        self._backbones.clear()
        self._recorder.new_pool()

    def _clear(self) -> None:
        self._drop_graphs()
        self._met.clear()


_NO_MORE_GRAPHS = (
    "a CUDA graph could not be recorded, so that none will be from now on, and batches of other sizes than "
    "were recorded before run more slowly (%s: %s). Another thread may have waited for the whole GPU "
    "meanwhile; `warm_up` with record_others=False avoids that"
)


def _power_of_2(count: int) -> int:
    """Returns the bucket of a number of prompts or labels."""
    return max(MIN_BUCKET, 1 << (count - 1).bit_length())
