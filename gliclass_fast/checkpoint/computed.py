"""Computed weights: torch makes them of other tensors at every forward pass, and a checkpoint has the result.

There are parametrizations, and the older hooks of weight norm, spectral norm and pruning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Readers = dict[str, Callable[[], Tensor]]


def computed_readers(model: nn.Module) -> tuple[Readers, set[str]]:
    """Returns what reads each computed weight, by its name in a plain checkpoint.

    Besides, it returns the names of the tensors that they are computed of. The model stays as it is:
    spectral norms take no step.
    """
    readers: Readers = {}
    parts: set[str] = set()
    for place, module in model.named_modules():
        prefix = f"{place}." if place else ""
        if is_parametrized(module):
            own: nn.Module = module.parametrizations  # type: ignore[assignment]
            parts |= {f"{prefix}parametrizations.{name}" for name in own.state_dict()}
            for name in own:  # type: ignore[attr-defined]
                readers[prefix + name] = partial(_parametrized, module, name)
        for hook in module._forward_pre_hooks.values():
            found = _computed_by(hook, module)
            if found is not None:
                name, suffixes, read = found
                parts |= {f"{prefix}{name}_{suffix}" for suffix in suffixes}
                readers[prefix + name] = partial(_without_gradients, read)
    return readers, parts


def _computed_by(hook: Any, module: nn.Module) -> tuple[str, tuple[str, ...], Callable[[], Tensor]] | None:
    """Returns the weight that a hook computes, the ends of the names of its parts, and what computes it."""
    if isinstance(hook, BasePruningMethod):
        return hook._tensor_name, ("orig", "mask"), partial(hook.apply_mask, module)
    if isinstance(hook, WeightNorm):
        return hook.name, ("g", "v"), partial(hook.compute_weight, module)
    if isinstance(hook, SpectralNorm):
        read = partial(hook.compute_weight, module, do_power_iteration=False)
        return hook.name, ("orig", "u", "v"), read
    return None


@torch.no_grad()
def _parametrized(module: nn.Module, name: str) -> Tensor:
    twin = copy.deepcopy(module).eval()  # in training mode some parametrizations change as they are read
    tensor: Tensor = getattr(twin, name)
    return tensor.detach()


@torch.no_grad()
def _without_gradients(read: Callable[[], Tensor]) -> Tensor:
    return read().detach()
