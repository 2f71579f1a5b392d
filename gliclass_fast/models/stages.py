"""Stages: what happens to a network's modules between their weights and the first batch, in this order.

1. `fold` makes products of weights alone, such as those of a layer's weights and a table of positions.
2. Adapters get their slots: an `Adaptable` module has a product that an adapter changes.
3. `pack` brings the weights of linear layers into the layouts that kernels read.
4. `bind` makes one call of what a backend can run at once, when the weights lie where they stay. The parts of
   a module come before it.

A module that takes part in a stage has that protocol's methods, and need not be named anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from gliclass_fast.models.layers import Linear
from gliclass_fast.ops import Update


@runtime_checkable
class Foldable(Protocol):
    """Describes a module with products of weights alone."""

    def fold_weights(self) -> None:
        """Makes these products."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """Describes a module with products of weights, which an adapter of these weights changes."""

    @property
    def folded_projections(self) -> Mapping[str, str]:
        """Returns the names of the module's linear layers that the products are made of."""
        ...

    def adapt(self, slot: int, updates: Mapping[str, Update]) -> bool:
        """Sets what the adapter in a slot changes, by the names of the module's linear layers.

        Tells whether a store was made, or moved to other memory.
        """
        ...


@runtime_checkable
class Bindable(Protocol):
    """Describes a module that binds what it can to its packed weights."""

    def bind(self) -> None:
        """Binds it."""
        ...


def fold(network: nn.Module) -> None:
    for module in list(network.modules()):  # some drop modules that they have folded
        if isinstance(module, Foldable):
            module.fold_weights()


def pack(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, Linear):
            module.pack()


def bind(network: nn.Module) -> None:
    for module in reversed(list(network.modules())):
        if isinstance(module, Bindable):
            module.bind()
