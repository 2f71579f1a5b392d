"""Adapters on the host: which there are, and what each adds to the stock weights.

An adapter's tensors are kept in host memory, up to a number of bytes; those of the adapters that were used
least recently are dropped, and read anew from their folder when they are next needed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gliclass_fast.checkpoint.adapter_folder import Stamp, stamp_of
from gliclass_fast.checkpoint.adapters import adapter_names, live_updates
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.lora import LoraPairs, open_adapter
from gliclass_fast.models.places import Places
from gliclass_fast.text.errors import WrongValue

logger = logging.getLogger(__name__)

HOST_BYTES = 1 << 30
Updates = Mapping[str, tuple[Tensor, Tensor]]  # by stock weight: A [r, in] and scaled B [out, r], float32


class AdapterInfo(NamedTuple):
    """Describes a loaded adapter."""

    id: str
    folder: str | None  # None for one of a live model
    rank: int  # the largest of its ranks; 0 for one of a live model
    nbytes: int  # of its tensors, in float32; 0 for one of a live model
    in_memory: bool  # whether the host holds them now


class Adapter:
    """Stands for one loaded adapter; to load another one under the same id makes another object."""

    def __init__(
        self,
        library: AdapterLibrary,
        id: str,
        number: int,
        folder: Path | None,
        read: Callable[[], Updates] | None = None,
    ) -> None:
        """Takes a number above 0 that no other adapter of the library has.

        read: reads the tensors where there is no folder, but a live model.
        """
        self._library, self.id, self.number, self.folder, self.read = library, id, number, folder, read
        self.rank = self.nbytes = 0
        self.stamp: Stamp | None = None  # of the files that this process read first
        # the tensors of an unloaded adapter, kept for prompts that were prepared before
        self.left: Updates | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickles without the stamp of the folder's files, which on another machine may be copies too."""
        return vars(self) | {"stamp": None, "left": None}

    @property
    def is_loaded(self) -> bool:
        """Tells whether calls may name it: it was not unloaded or replaced."""
        return self._library.get(self.id) is self

    def updates(self) -> Updates:
        """Returns what it adds to stock weights; raises CheckpointError where its folder changed."""
        return self._library.updates(self)


class _Live(NamedTuple):
    """Holds what a live model has at one moment."""

    adapters: Mapping[str, Adapter]
    without: Callable[[], Updates]  # takes the active adapters out of the model


_NOTHING_LIVE = _Live({}, dict)


class AdapterLibrary:
    """Holds the adapters of one model by their ids. Threads may share it."""

    def __init__(self, host_bytes: int = HOST_BYTES) -> None:
        """Keeps at most so many bytes of tensors in host memory, and the newest adapter's in any case."""
        self.host_bytes = host_bytes
        self._folders: dict[str, Adapter] = {}  # they stand before those of a live model with the same ids
        self._live = _NOTHING_LIVE
        self._kept: OrderedDict[Adapter, Updates] = OrderedDict()  # the least recently used first
        self._places: Places | None = None
        self._count = 0
        self._lock = RLock()  # held while a folder is read
        self._exchange = RLock()  # held for no longer than it takes to exchange what a live model has

    def __getstate__(self) -> dict[str, Any]:
        """Pickles without tensors: a copy reads the folders anew, and follows a live model of its own."""
        state = {name: each for name, each in vars(self).items() if name not in ("_lock", "_exchange")}
        return state | {"_kept": OrderedDict(), "_folders": dict(self._folders), "_live": _NOTHING_LIVE}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=RLock(), _exchange=RLock())

    def load(self, id: str, folder: Path, places: Places) -> Adapter | None:
        """Reads and checks an adapter for a network with these places; returns what it takes the place of.

        Raises CheckpointError, and leaves what was there, where the folder holds no adapter for the network.
        """
        with self._lock:
            self._places, self._count = places, self._count + 1
            adapter = Adapter(self, id, self._count, folder)
            adapter.stamp = stamp_of(folder)
            found = _read(adapter, places)
            before = self.get(id)
            self._folders[id] = adapter
            self._leave(before)
            self._keep(adapter, found)
            return before

    @contextmanager
    def following(self, model: nn.Module | None, places: Places) -> Iterator[None]:
        """Takes the adapters of a live model as they are now; those of folders stay.

        What the body exchanges is exchanged with them: nobody looks an adapter up meanwhile.

        model: None where the network has no live model, or none any more.
        """
        without, found = _NOTHING_LIVE.without, {}
        if model is not None:
            without = _snapshot(model, None, places)
            found = {id: _snapshot(model, id, places) for id in adapter_names(model)}
        with self._lock, self._exchange:
            first, self._count = self._count + 1, self._count + len(found)
            self._live = _Live(
                {id: Adapter(self, id, n, None, read) for n, (id, read) in enumerate(found.items(), first)},
                without,
            )
            yield

    def unload(self, id: str) -> Adapter:
        """Forgets an adapter and returns it; a live model's of the same id can then be named again.

        Raises WrongValue where there is none of that id, and for one of a live model.
        """
        with self._lock:
            adapter = self[id]
            if adapter.folder is None:
                raise WrongValue(f"adapter {id!r} belongs to the live model: delete it there")
            del self._folders[id]
            self._leave(adapter)
            return adapter

    def _leave(self, adapter: Adapter | None) -> None:
        """Leaves the tensors of an adapter that is not loaded any more to it, as a text may wait for it."""
        if adapter is not None:
            adapter.left = self._kept.pop(adapter, None)

    def updates(self, adapter: Adapter) -> Updates:
        """Returns an adapter's tensors, from memory, from its folder or from its live model."""
        if adapter.read is not None:
            return adapter.read()
        with self._lock:
            found = self._kept.pop(adapter, adapter.left)
            if found is None:
                found = self._read_again(adapter)
            if adapter.is_loaded:  # else it was unloaded while a text waited for it
                self._keep(adapter, found)
            with self._exchange:
                without = self._live.without
            return _joined(found, without())

    def _read_again(self, adapter: Adapter) -> Updates:
        """Reads a folder that was read before; raises CheckpointError where its files are others now."""
        assert self._places is not None and adapter.folder is not None
        logger.info("reading the adapter %r of %s again", adapter.id, adapter.folder)
        _assert_unchanged(adapter.folder, adapter)
        found = _read(adapter, self._places)
        _assert_unchanged(adapter.folder, adapter)  # they may have been written meanwhile
        return found

    def _keep(self, adapter: Adapter, updates: Updates) -> None:
        self._kept[adapter] = updates
        for each in list(self._kept):
            if sum(kept.nbytes for kept in self._kept) <= self.host_bytes:
                break
            if each is not adapter:
                del self._kept[each]

    def described(self) -> list[AdapterInfo]:
        """Describes all adapters, in the order in which they came."""
        with self._lock:
            return [
                AdapterInfo(
                    each.id,
                    None if each.folder is None else str(each.folder),
                    each.rank,
                    each.nbytes,
                    each in self._kept,
                )
                for each in sorted(self._all().values(), key=lambda each: each.number)
            ]

    def _all(self) -> dict[str, Adapter]:
        with self._exchange:
            return {**self._live.adapters, **self._folders}

    def get(self, id: str) -> Adapter | None:
        """Returns the adapter of an id, or None."""
        with self._exchange:
            return self._folders.get(id) or self._live.adapters.get(id)

    def __getitem__(self, id: str) -> Adapter:
        found = self.get(id)
        if found is None:
            loaded = ", ".join(map(repr, self)) or "none"
            raise WrongValue(f"adapter {id!r} is not loaded; loaded: {loaded}")
        return found

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and self.get(id) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def _read(adapter: Adapter, places: Places) -> Updates:
    """Reads an adapter's folder, and notes its sizes; CheckpointError where it does not fit the network."""
    assert adapter.folder is not None
    pairs = open_adapter(adapter.folder, places.weights, places.prefixes)
    found = {
        weight: _scaled(pairs, weight, places)
        for weight in pairs.changed
        if _has_effect(weight, places, str(adapter.folder))
    }
    if not found:
        raise CheckpointError(f"{adapter.folder}: the adapter changes no weight that is read")
    adapter.rank = max(a.shape[0] for a, _ in found.values())
    adapter.nbytes = sum(a.nbytes + b.nbytes for a, b in found.values())
    return found


def _assert_unchanged(folder: Path, adapter: Adapter) -> None:
    """Raises CheckpointError if the files changed since they were first read.

    A missing file passes here; reading it raises.
    """
    found = stamp_of(folder)
    adapter.stamp = adapter.stamp or found
    if found not in (None, adapter.stamp):
        raise CheckpointError(f"{folder} changed since adapter {adapter.id!r} was loaded: load it again")


def _joined(one: Updates, other: Updates) -> Updates:
    """Returns the updates that do what both do."""
    both = {
        weight: (torch.cat((one[weight][0], a)), torch.cat((one[weight][1], b), dim=1))
        for weight, (a, b) in other.items()
        if weight in one
    }
    return {**one, **other, **both}


def _snapshot(model: nn.Module, id: str | None, places: Places) -> Callable[[], Updates]:
    """Reads an adapter of a live model now, and returns what gives it, or raises what is wrong with it.

    id None: reads what takes the active adapters out.

    The network beside it was built of the model as it is now, with the active adapters merged.
    """
    try:
        found = {
            weight: pair
            for weight, pair in live_updates(model, id).items()
            if _has_effect(weight, places, f"the live model's adapter {id!r}" if id else "the live model")
        }
    except CheckpointError as error:
        return partial(_refuse, str(error))  # as a raised error holds the frames that it passed
    return partial(_give, found)  # which can be pickled


def _give(found: Updates) -> Updates:
    return found


def _refuse(reason: str) -> Updates:
    raise CheckpointError(reason)


def _scaled(pairs: LoraPairs, weight: str, places: Places) -> tuple[Tensor, Tensor]:
    place = places.of[weight]
    a, b, scaling = pairs.read(weight, (place.rows, place.width))
    return a, scaling * b


def _has_effect(weight: str, places: Places, source: str) -> bool:
    """Tells whether a weight is read; raises CheckpointError where an adapter of it cannot be one text's."""
    if weight in places.of:
        return True
    if weight in places.unused:
        return False
    layers = ", ".join(f"{prefix}*" for prefix in places.prefixes)
    within = weight.startswith(places.prefixes)
    reason = ": this layer is folded into the embeddings, or is no linear layer" if within else ""
    raise CheckpointError(
        f"{source}: an adapter of {weight} is not supported{reason}; supported: {'other ' if within else ''}"
        f"linear layers of the backbone ({layers}). To merge the adapter into the model, load the model with "
        "it"
    )
