"""Adapters on a device: the slots of a network's stores, and which adapter is in each."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition
from weakref import WeakMethod

from torch import Tensor, nn

from gliclass_fast.batch import EncodedPrompt
from gliclass_fast.models.layers import Linear
from gliclass_fast.models.places import Places
from gliclass_fast.models.stages import Adaptable
from gliclass_fast.ops import Part, Update
from gliclass_fast.runtime.adapters import Adapter, Updates
from gliclass_fast.runtime.slot_fence import SlotFence

logger = logging.getLogger(__name__)

# So many adapters are on the device at once. One of DeBERTa's queries or keys may take 38 MB on a GPU, for
# its tables of a base model in 16 bit; any number near this one works.
MOST_SLOTS = 64


class AdapterSlots:
    """Brings adapters to a network's stores when a batch needs them. Threads may share it.

    Where all slots are taken, the adapter that was used least recently leaves. One that is leased stays, and
    no slot changes before a GPU has run the batches that were launched under leases.
    """

    def __init__(
        self,
        network: nn.Module,
        places: Places,
        like: Tensor,
        on_move: Callable[[], None],
        most: int = MOST_SLOTS,
    ) -> None:
        """Takes a tensor of the network's dtype and device.

        on_move: a method that is called when a store moves to other memory. Its object holds these slots, so
        that it is held weakly: a cycle would keep the weights of a network that nobody needs.
        """
        self._network, self._places, self._like, self.most = network, places, like, most
        self._on_move = WeakMethod(on_move)
        self._fence = SlotFence(like.device)
        self._slots: OrderedDict[Adapter, int] = OrderedDict()  # the least recently used first
        self._readers: dict[Adapter, int] = {}  # how many leases an adapter has, 1 or more
        self._changed = Condition()
        bounds: dict[str, list[int]] = {}
        for place in places.of.values():
            bounds.setdefault(place.layer, [0]).append(place.start + place.rows)
        self._bounds = {layer: sorted(ends) for layer, ends in bounds.items()}

    def __contains__(self, adapter: object) -> bool:
        """Tells whether an adapter is in a slot now."""
        return adapter in self._slots

    def __len__(self) -> int:
        """Counts the adapters that are in slots now."""
        return len(self._slots)

    def drop(self, adapter: Adapter) -> None:
        """Empties the slot of an adapter that is not loaded any more.

        Where it is leased, the last of its leases does so when it ends.
        """
        with self._changed:
            if adapter in self._slots and adapter not in self._readers:
                self._fill_with({}, self._slots.pop(adapter))

    @property
    def nbytes(self) -> int:
        """Counts the bytes of all stores."""
        stores = [
            getattr(each, name, None)
            for each in self._network.modules()
            for name in ("lora", "adapted_tables")
        ]
        return sum(store.nbytes for store in stores if store is not None)

    @contextmanager
    def lease(self, prompts: Sequence[EncodedPrompt]) -> Iterator[list[int]]:
        """Yields the slot of every prompt's adapter, -1 for none.

        The adapters stay in their slots within. At most `most` of them may be different. Raises
        CheckpointError where one has to be read from its folder and cannot be.
        """
        adapters = {prompt.adapter for prompt in prompts} - {None}
        slots = self._take(sorted(adapters, key=lambda each: each.number))
        try:
            yield [-1 if prompt.adapter is None else slots[prompt.adapter] for prompt in prompts]
        finally:
            with self._changed:
                for each in adapters:
                    self._readers[each] -= 1
                    if not self._readers[each]:
                        del self._readers[each]
                self._changed.notify_all()
                self._fence.note_read()
                for each in adapters:
                    if not each.is_loaded:  # it was unloaded meanwhile, or while its texts waited
                        self.drop(each)

    def _take(self, adapters: list[Adapter]) -> dict[Adapter, int]:
        with self._changed:
            while not self._make_room(adapters):
                self._changed.wait()
            for each in adapters:
                if each not in self._slots:
                    self._fill(each)
                self._slots.move_to_end(each)
            for each in adapters:
                self._readers[each] = self._readers.get(each, 0) + 1
            return {each: self._slots[each] for each in adapters}

    def _make_room(self, adapters: list[Adapter]) -> bool:
        """Frees slots for adapters that have none; tells whether there are enough now."""
        missing = sum(each not in self._slots for each in adapters)
        for each in list(self._slots):
            if len(self._slots) + missing <= self.most:
                break
            if each not in adapters and each not in self._readers:
                del self._slots[each]
        return len(self._slots) + missing <= self.most

    def _fill(self, adapter: Adapter) -> None:
        """Puts an adapter into a free slot."""
        slot = next(n for n in range(self.most) if n not in self._slots.values())
        self._fill_with(adapter.updates(), slot)
        self._slots[adapter] = slot
        logger.info("adapter %r is in slot %d", adapter.id, slot)

    def _fill_with(self, updates: Updates, slot: int) -> None:
        """Sets what the stores hold in a slot, which is nothing where there are no updates."""
        with self._fence.write():
            self._write(updates, slot)

    def _write(self, updates: Updates, slot: int) -> None:
        of_layers: dict[str, list[Part]] = {}
        for weight, (a, b) in updates.items():
            place = self._places.of[weight]
            part = Part(place.start, a.to(self._like.device), b.to(self._like.device))
            of_layers.setdefault(place.layer, []).append(part)
        moved = False
        try:
            for path, module in self._network.named_modules():
                if isinstance(module, Linear):
                    moved |= self._put(path, module, slot, of_layers.get(path, []))
                elif isinstance(module, Adaptable):
                    names = module.folded_projections.values()
                    moved |= module.adapt(slot, {name: of_layers.get(f"{path}.{name}", []) for name in names})
        finally:  # also where memory ends on the way
            if moved and (on_move := self._on_move()) is not None:
                on_move()

    def _put(self, path: str, layer: Linear, slot: int, update: Update) -> bool:
        made = bool(update) and layer.lora is None
        if made:
            depth = update[0].a.shape[1]
            layer.lora = layer.ops.lora_store(self._bounds[path], depth, self._like)
        if layer.rearranged is not None:
            update = [Part(part.start, part.a, layer.rearranged(part.b)) for part in update]
        return made | (layer.lora is not None and layer.lora.put(slot, update))
