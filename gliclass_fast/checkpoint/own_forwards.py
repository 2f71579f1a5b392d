"""Modules of a live model that compute otherwise than their tensors say: refused, or named in a warning.

The engine reads tensors and the configuration, and calls no module.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from gliclass_fast.checkpoint.errors import CheckpointError

logger = logging.getLogger(__name__)

# The modules of these packages compute what the configuration says; gliclass takes the last three where they
# are installed. Those below wrap a forward, and leave what it computes.
_KNOWN = (
    "torch", "transformers", "gliclass", "gliclass_fast", "peft", "accelerate", "flashdeberta", "turbot5",
    "llm2vec",
)  # fmt: skip
_WRAPPING = ("torch", "accelerate")
_MOST_NAMED = 5
_warned: WeakSet[nn.Module] = WeakSet()


class Look:
    """Remembers how a module computes: by which class and which forward, and with which hooks of others."""

    __slots__ = ("_forward", "_hooks", "_kind", "_module", "_own")

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind, self._own = module, type(module), vars(module)
        self._forward, self._hooks = self._own.get("forward"), _others_hooks(module)

    def holds(self) -> bool:
        """Tells whether it computes so now; every call asks this of all modules."""
        own = self._own
        if self._module.__class__ is not self._kind or own.get("forward") is not self._forward:
            return False
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or self._hooks:
            return _others_hooks(self._module) == self._hooks
        return True


def _others_hooks(module: nn.Module) -> list[Any]:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return [hook for hook in hooks if _package(hook) not in _KNOWN]


def refuse_own_forwards(model: nn.Module) -> None:
    """Raises CheckpointError, which names the module, for one that has another forward than is known.

    Warns once of every model that has hooks of somebody's own.
    """
    hooked = []
    for place, module in _computing(model):
        named = f"{place or 'the model'} ({type(module).__name__})"
        if _has_own_forward(module):
            raise CheckpointError(
                f"{named} has a forward of its own, which the engine would leave out, as it reads tensors "
                "and calls no module: score this model with the gliclass package, or put what the forward "
                "adds into a class derived from the pipeline"
            )
        if _others_hooks(module):
            hooked.append(named)
    if hooked and model not in _warned:
        _warned.add(model)
        more = f" and {len(hooked) - _MOST_NAMED} more" if len(hooked) > _MOST_NAMED else ""
        logger.warning(
            "the forward hooks of %s%s are not called: the engine reads tensors and calls no module",
            ", ".join(hooked[:_MOST_NAMED]),
            more,
        )


def _computing(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules that a pass calls; parametrizations are anybody's, and are read (computed.py)."""
    beneath: list[str] = []
    for place, module in model.named_modules():
        if is_parametrized(module):
            beneath.append(f"{place}.parametrizations.".removeprefix("."))
        if not f"{place}.".startswith(tuple(beneath)):
            yield place, module


def _has_own_forward(module: nn.Module) -> bool:
    kind = type(module)
    if any(not _is_known(method) for method in (kind.forward, kind.__call__)):
        return True
    own = vars(module).get("forward")
    if own is None or "_orig_mod" in module._modules:  # torch.compile's wrapper sets its own
        return False
    while (own := getattr(own, "__func__", own)) is not kind.forward:
        if own is None or _package(own) not in _WRAPPING:
            return True
        own = getattr(own, "__wrapped__", None)
    return False


def _is_known(method: Any) -> bool:
    """Tells whether a method, and all that it wraps, is of a package that the engine knows."""
    while method is not None:
        if _package(method) not in _KNOWN:
            return False
        method = getattr(method, "__wrapped__", None)
    return True


def _package(called: Any) -> str:
    """Returns the package whose code runs; `__module__` would be that of a function that is wrapped."""
    called = getattr(called, "func", called)  # of functools.partial
    called = getattr(called, "__func__", called)
    names = getattr(called, "__globals__", None)
    module = type(called).__module__ if names is None else names.get("__name__", "")
    return str(module).partition(".")[0]
