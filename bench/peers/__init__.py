"""Engines to compare with: a file gives a name, the packages it needs, and how it runs a reference model.

A peer is optional. One whose packages are absent is listed as not installed, and one that fails shows its
error.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gliclass_fast.bench.contenders import Contender, Setting


class Peer(Protocol):
    """A peer is a module of this folder; `ROUNDS = True` in it says that it rounds on purpose.

    Its function `unsuitable(setting)`, where it has one, tells why it cannot run this model on this device.
    """

    NAME: str
    PACKAGES: tuple[str, ...]  # These are import names.
    SAME_MODEL: bool  # It says whether its logits shall be the reference's.
    build: Callable[[Setting], Contender]


@dataclass(frozen=True, slots=True)
class Absent:
    """An absent peer does not run here."""

    reason: str


def available() -> dict[str, Peer]:
    """Returns every peer by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules: list[Peer] = [importlib.import_module(f"{__name__}.{name}") for name in names]  # type: ignore[misc]
    return {module.NAME: module for module in modules}


def build(peer: Peer, setting: Setting) -> Contender | Absent:
    missing = [name for name in peer.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return Absent(f"not installed: {', '.join(missing)}")
    unsuitable: Callable[[Setting], str | None] | None = getattr(peer, "unsuitable", None)
    if unsuitable and (reason := unsuitable(setting)):
        return Absent(reason)
    try:
        return peer.build(setting)
    except Exception as error:  # A peer's failure is a result and not ours to handle.
        return Absent(f"failed: {error!r}"[:300])
