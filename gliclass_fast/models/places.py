"""Places: which outputs of which linear layer a stock weight became, so that an adapter of it finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from gliclass_fast.checkpoint.weights import Checkpoint
from gliclass_fast.models.architectures import Network
from gliclass_fast.models.layers import Linear
from gliclass_fast.models.stages import Adaptable


@dataclass(frozen=True, slots=True)
class Place:
    """Says where a stock weight [rows, width] is: `start` is the first of its outputs in a linear layer."""

    layer: str  # the layer's place in the network
    start: int
    rows: int
    width: int


@dataclass(frozen=True, slots=True)
class Places:
    """Holds the places of all stock weights that a text may have an adapter of."""

    of: Mapping[str, Place]
    weights: frozenset[str]  # the names of all stock tensors
    unused: frozenset[str]  # those of weights that nothing reads
    prefixes: tuple[str, ...]  # what the names of the places start with

    @classmethod
    def find(cls, network: Network, checkpoint: Checkpoint) -> Places:
        """Finds the places in a network that a checkpoint filled, before weights are folded."""
        paths = {module: path for path, module in network.named_modules()}
        found: dict[str, Place] = {}
        prefixes: dict[str, None] = {}
        for filled in checkpoint.filled:
            owner, _, kind = filled.name.rpartition(".")
            path = ".".join(part for part in (paths[filled.module], owner) if part)
            layer = network.get_submodule(path)
            if kind != "weight" or not isinstance(layer, Linear) or not path.startswith(network.adapted):
                continue
            prefixes[filled.prefix] = None
            start = 0
            for name, (rows, width) in zip(filled.stock, filled.shapes, strict=True):
                found[name] = Place(path, start, rows, width)
                start += rows
        unused = frozenset(name for name in checkpoint.names if checkpoint.is_unused(name))
        return cls(found, frozenset(checkpoint.names), unused, tuple(prefixes))

    def without_folded(self, network: nn.Module) -> Places:
        """Returns those of layers that are still there, or whose products adapters may change."""
        kept = {name: place for name, place in self.of.items() if _is_adaptable(network, place.layer)}
        return Places(kept, self.weights, self.unused, self.prefixes)


def _is_adaptable(network: nn.Module, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    module = network.get_submodule(owner)
    if isinstance(module, Adaptable) and name in module.folded_projections.values():
        return True
    return isinstance(getattr(module, name, None), Linear)
