"""Adapters on the host: which there are, and what each adds to the stock weights.

An adapter's tensors are kept in host memory, up to a number of bytes; those of the adapters that were used
least recently are dropped, and read anew from their folder when they are next needed.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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

    def updates(self) -> Updates:
        """Returns what it adds to stock weights; raises CheckpointError where its folder is damaged."""
        return self._library.updates(self)


class AdapterLibrary:
    """Holds the adapters of one model by their ids. Threads may share it."""

    def __init__(self, host_bytes: int = HOST_BYTES) -> None:
        """Keeps at most so many bytes of tensors in host memory, and the newest adapter's in any case."""
        self.host_bytes = host_bytes
        self._adapters: dict[str, Adapter] = {}
        self._kept: OrderedDict[Adapter, Updates] = OrderedDict()  # the least recently used first
        self._places: Places | None = None
        self._without: Callable[[], Updates] = dict  # takes the active adapters out of a live model
        self._count = 0
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Has a copy, in another process too, read the folders anew and follow its own live model."""
        state = {name: each for name, each in vars(self).items() if name != "_lock"}
        of_folders = {id: each for id, each in self._adapters.items() if each.folder is not None}
        return state | {"_kept": OrderedDict(), "_adapters": of_folders, "_without": dict}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=RLock())

    def load(self, id: str, folder: Path, places: Places) -> Adapter:
        """Reads and checks an adapter for a network with these places; one of the same id is replaced.

        Raises CheckpointError, and leaves what was there, where the folder holds no adapter for the network.
        """
        with self._lock:
            self._places, self._count = places, self._count + 1
            adapter = Adapter(self, id, self._count, folder)
            found = _read(adapter, places)
            if not found:
                raise CheckpointError(f"{folder}: the adapter changes no weight that is read")
            adapter.rank = max(a.shape[0] for a, _ in found.values())
            adapter.nbytes = sum(a.nbytes + b.nbytes for a, b in found.values())
            self.unload(id, missing_ok=True)
            self._adapters[id] = adapter
            self._keep(adapter, found)
            return adapter

    def follow(self, model: nn.Module | None, places: Places) -> None:
        """Takes the adapters of a live model as they are now; those of folders with the same ids stay.

        model: None where the network has no live model, or none any more.
        """
        with self._lock:
            for id in [id for id, each in self._adapters.items() if each.folder is None]:
                del self._adapters[id]
            self._without = dict
            if model is None:
                return
            self._without = _snapshot(model, None, places)
            for id in adapter_names(model):
                if id not in self._adapters:
                    self._count += 1
                    self._adapters[id] = Adapter(self, id, self._count, None, _snapshot(model, id, places))

    def unload(self, id: str, missing_ok: bool = False) -> None:
        """Forgets an adapter; raises WrongValue where there is none of that id."""
        with self._lock:
            if id not in self._adapters and missing_ok:
                return
            self._kept.pop(self[id], None)
            del self._adapters[id]

    def updates(self, adapter: Adapter) -> Updates:
        """Returns an adapter's tensors, from memory, from its folder or from its live model."""
        if adapter.read is not None:
            return adapter.read()
        with self._lock:
            found = self._kept.pop(adapter, None)
            if found is None:
                assert self._places is not None
                logger.info("reading the adapter %r of %s again", adapter.id, adapter.folder)
                found = _read(adapter, self._places)
            if self._adapters.get(adapter.id) is adapter:  # else it was unloaded while a text waited for it
                self._keep(adapter, found)
            return _joined(found, self._without())

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
                for each in self._adapters.values()
            ]

    def __getitem__(self, id: str) -> Adapter:
        found = self._adapters.get(id)
        if found is None:
            loaded = ", ".join(map(repr, self._adapters)) or "none"
            raise WrongValue(f"adapter {id!r} is not loaded; loaded: {loaded}")
        return found

    def get(self, id: str) -> Adapter | None:
        """Returns the adapter of an id, or None."""
        return self._adapters.get(id)

    def __contains__(self, id: object) -> bool:
        return id in self._adapters

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._adapters))

    def __len__(self) -> int:
        return len(self._adapters)


def _read(adapter: Adapter, places: Places) -> Updates:
    """Reads an adapter's folder; raises CheckpointError where it does not fit the network."""
    assert adapter.folder is not None
    pairs = open_adapter(adapter.folder, places.weights, places.prefixes)
    return {
        weight: _scaled(pairs, weight, places)
        for weight in pairs
        if _has_effect(weight, places, str(adapter.folder))
    }


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
        return partial(_refuse, error)
    return partial(_give, found)  # which can be pickled


def _give(found: Updates) -> Updates:
    return found


def _refuse(error: CheckpointError) -> Updates:
    raise error


def _scaled(pairs: LoraPairs, weight: str, places: Places) -> tuple[Tensor, Tensor]:
    place = places.of[weight]
    a, b = pairs.read(weight, (place.rows, place.width))
    return a, pairs[weight].scaling * b


def _has_effect(weight: str, places: Places, source: str) -> bool:
    """Tells whether a weight is read; raises CheckpointError where an adapter of it cannot be one text's."""
    if weight in places.of:
        return True
    if weight in places.unused:
        return False
    layers = ", ".join(f"{prefix}*" for prefix in places.prefixes)
    raise CheckpointError(
        f"{source}: an adapter of {weight} is not supported; supported: linear layers of the backbone "
        f"({layers}). To merge the adapter into the model, load the model with it"
    )
