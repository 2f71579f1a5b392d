"""Registries: they map names in config.json to modules, and import a module when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, TypeVar, cast

from gliclass_fast.checkpoint.weights import Weights
from gliclass_fast.config import one_of
from gliclass_fast.models.backbone_config import BackboneConfig


class BackboneModule(Protocol):
    """Says what every file of a backbone holds, encoder or decoder."""

    WEIGHTS: Weights
    UNUSED: tuple[str, ...]  # stock tensors that nothing reads
    config_from: Callable[[Any], BackboneConfig]  # reads a Hugging Face configuration


Module = TypeVar("Module")  # a Protocol that every module of the folder fulfils


class Registry(Mapping[str, Module], Generic[Module]):
    """Maps names to modules: `registry[name]` is the module of a name. Several names may share a module."""

    def __init__(
        self,
        option: str,
        package: str,
        names: tuple[str, ...],
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        """Keeps the names and imports nothing.

        Args:
            option: what config.json calls the name; messages use it.
            package: the package that holds the modules.
            names: those whose modules are named after them, with _ for -.
            aliases: the modules of other names, relative to the package, as an import names them.
        """
        rows = {**{name: f".{name.replace('-', '_')}" for name in names}, **(aliases or {})}
        self._option, self._package, self._rows = option, package, dict(sorted(rows.items()))

    def __getitem__(self, name: str) -> Module:
        """Returns the module of a name, else raises UnsupportedConfigError, which lists the known names."""
        one_of(self._option, name, self)
        return cast(Module, importlib.import_module(self._rows[name], self._package))

    def __contains__(self, name: object) -> bool:
        return name in self._rows  # this imports nothing

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
