"""Modules of a live model that compute otherwise than their tensors say: refused, or named in a warning.

The engine reads tensors and the configuration, and calls no module.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any
from weakref import WeakSet

from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import is_parametrized

from gliclass_fast.checkpoint.errors import CheckpointError

logger = logging.getLogger(__name__)

# Modules of these packages compute what the configuration says, and those of kernels do so faster. Packages
# that wrap a forward leave what it computes.
_KERNELS = ("flashdeberta", "kernels", "liger_kernel", "llm2vec", "turbot5", "unsloth", "unsloth_zoo")
_KNOWN = ("torch", "transformers", "gliclass", "gliclass_fast", "peft", "accelerate", *_KERNELS)
_WRAPPING = ("torch", "transformers", "accelerate")
_MOST_NAMED = 5
# the hooks that every module calls, under torch's private names
_OF_ALL_MODULES = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
_warned: WeakSet[nn.Module] = WeakSet()


class Look:
    """Remembers by which class and which forward a module computes."""

    __slots__ = ("_forward", "_kind", "_module", "_own")

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind, self._own = module, type(module), vars(module)
        self._forward = self._own.get("forward")

    def holds(self) -> bool:
        """Tells whether it computes so now; every call asks this of all modules."""
        forward = self._own.get("forward")
        if self._module.__class__ is not self._kind:
            return False
        return forward is self._forward or (self._is_plain(forward) and self._is_plain(self._forward))

    def hooks(self) -> int:
        """Returns how many forward hooks the module has."""
        return len(self._own["_forward_hooks"]) + len(self._own["_forward_pre_hooks"])

    def _is_plain(self, forward: Any) -> bool:
        """Tells whether a forward is that of the class, which transformers leaves in a module it recorded."""
        own = getattr(forward, "__func__", None) is self._kind.forward and forward.__self__ is self._module
        return forward is None or own


def refuse_own_forwards(model: nn.Module) -> None:
    """Raises CheckpointError, which names the module, for one that has another forward than is known."""
    for place, module in _computing(model):
        if _has_own_forward(module):
            raise CheckpointError(
                f"{_named(place, module)} has a forward of its own, which the engine would leave out, as it "
                "reads tensors and calls no module: score this model with the gliclass package, or put what "
                "the forward adds into a class derived from the pipeline"
            )


def count_hooks(looks: Iterable[Look]) -> int:
    """Counts the forward hooks of modules, and those of all modules that there are."""
    return sum(look.hooks() for look in looks) + sum(map(len, _OF_ALL_MODULES))


def warn_of_hooks(model: nn.Module) -> None:
    """Warns once of every model that has forward hooks of somebody's own."""
    hooked = (
        ["all modules (register_module_forward_hook or register_module_forward_pre_hook)"]
        if _others_hooks(*_OF_ALL_MODULES)
        else []
    )
    hooked += [
        _named(place, module)
        for place, module in _computing(model)
        if _others_hooks(module._forward_hooks, module._forward_pre_hooks)
    ]
    if hooked and model not in _warned:
        _warned.add(model)
        more = f" and {len(hooked) - _MOST_NAMED} more" if len(hooked) > _MOST_NAMED else ""
        logger.warning(
            "the forward hooks of %s%s are not called: the engine reads tensors and calls no module",
            ", ".join(hooked[:_MOST_NAMED]),
            more,
        )


def _named(place: str, module: nn.Module) -> str:
    return f"{place or 'the model'} ({type(module).__name__})"


def _others_hooks(*registries: Mapping[int, Callable[..., Any]]) -> list[Any]:
    hooks = chain(*(each.values() for each in registries))
    return [hook for hook in hooks if _package(hook) not in _KNOWN]


def _computing(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules that a pass calls.

    Parametrizations are anybody's, and are read (computed.py). A loss that a training loop keeps in the model
    has no tensors, and the model's forward does not name it.
    """
    beneath: list[str] = []
    called = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    if called is not None:
        beneath += [
            f"{name}."
            for name, child in model.named_children()
            if name not in called.co_names and not _has_tensors(child)
        ]
    for place, module in model.named_modules():
        if is_parametrized(module):
            beneath.append(f"{place}.parametrizations.".removeprefix("."))
        if not f"{place}.".startswith(tuple(beneath)):
            yield place, module


def _has_tensors(module: nn.Module) -> bool:
    return next(chain(module.parameters(), module.buffers()), None) is not None


def _has_own_forward(module: nn.Module) -> bool:
    kind = type(module)
    if any(not _is_known(method) for method in (kind.forward, kind.__call__)):
        return True
    hook = vars(module).get("_hf_hook")  # accelerate's forward calls it
    if any(_package(each) not in _KNOWN for each in getattr(hook, "hooks", (hook,)) if each is not None):
        return True
    own = vars(module).get("forward")
    if own is None or "_orig_mod" in module._modules:  # torch.compile's wrapper sets its own
        return False
    while own is not None and getattr(own, "__self__", module) is module:
        function = getattr(own, "__func__", own)
        if function is kind.forward or _package(function) in _KERNELS:
            return False
        own = getattr(function, "__wrapped__", None) if _package(function) in _WRAPPING else None
    return True


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
