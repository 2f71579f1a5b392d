"""The operations of the engine and the one table that says which implementation of each runs.

A later implementation is a row here; encoders and scorers only ever see an `Ops`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# operation -> backend -> "module:function"
IMPLEMENTATIONS: dict[str, dict[str, str]] = {
    "pack_linear": {"reference": "linear:pack_reference", "onednn": "linear:pack_onednn"},
    "linear": {"reference": "linear:linear_reference", "onednn": "linear:linear_onednn"},
    "activation": {"reference": "linear:activation_reference"},
    "layer_norm": {"reference": "norm:layer_norm_reference"},
    "embedding_norm": {"reference": "norm:embedding_norm_reference"},
    "add_norm": {"reference": "norm:add_norm_reference"},
    "attention": {"reference": "attention:attention_reference"},
    "disentangled_attention": {"reference": "disentangled_attention:disentangled_attention_reference"},
    "gated_linear_unit": {"reference": "gated_linear_unit:gated_linear_unit_reference"},
    "segment_pool": {"reference": "segment_pool:segment_pool_reference"},
    "segment_softmax": {"reference": "segment_softmax:segment_softmax_reference"},
    "cross_attention": {"reference": "cross_attention:cross_attention_reference"},
}
ORDER = {"cuda": ("reference",), "cpu": ("onednn", "reference")}


@dataclass(frozen=True, slots=True)
class Ops:
    """One callable per operation; contracts stand in the kernel files. `chosen` names the backend of each."""

    pack_linear: Callable[..., Tensor]
    linear: Callable[..., Tensor]
    activation: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    embedding_norm: Callable[..., Tensor]
    add_norm: Callable[..., tuple[Tensor, Tensor]]
    attention: Callable[..., Tensor]
    disentangled_attention: Callable[..., Tensor]
    gated_linear_unit: Callable[..., Tensor]
    segment_pool: Callable[..., Tensor]
    segment_softmax: Callable[..., Tensor]
    cross_attention: Callable[..., Tensor]
    chosen: dict[str, str]


@runtime_checkable
class Foldable(Protocol):
    """A module with products of weights alone, made once after loading, before linear weights are packed."""

    def fold(self) -> None:
        """Makes them."""
        ...


def unavailable_reason(backend: str, dtype: torch.dtype = torch.float32) -> str | None:
    """Why a backend cannot run on this machine in `dtype`, or None where it can."""
    if backend == "onednn" and dtype is not torch.float32:
        return f"oneDNN packs float32 weights only, not {dtype}"
    if backend == "onednn" and not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "this torch build has no oneDNN"
    return None


def choose_ops(
    device: torch.device | str, dtype: torch.dtype = torch.float32, only: str | None = None
) -> Ops:
    """The implementations for `device` and `dtype`: per operation the first of `ORDER` that can run there.

    only: a backend's name. Operations it implements use it and the rest use the reference. It never falls
    back silently: an unknown or unavailable backend raises ValueError and names what exists.
    """
    kind = torch.device(device).type
    if kind not in ORDER:
        raise ValueError(f"device {kind!r} is not supported; supported: {', '.join(ORDER)}")
    order = ORDER[kind] if only is None else tuple(dict.fromkeys((only, "reference")))
    if only is not None:
        if only not in ORDER[kind]:
            raise ValueError(
                f"backend {only!r} does not exist for {kind}; choose one of: {', '.join(ORDER[kind])}"
            )
        if reason := unavailable_reason(only, dtype):
            raise ValueError(f"backend {only!r} cannot run: {reason}")
    usable = [backend for backend in order if unavailable_reason(backend, dtype) is None]
    chosen = {op: next(b for b in usable if b in rows) for op, rows in IMPLEMENTATIONS.items()}
    logger.info("operations on %s: %s", kind, chosen)
    return Ops(**{op: _load(IMPLEMENTATIONS[op][backend]) for op, backend in chosen.items()}, chosen=chosen)


def _load(place: str) -> Callable[..., Any]:
    module, function = place.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(f"gliclass_fast.kernels.{module}"), function)
    return loaded
