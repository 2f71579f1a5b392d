"""The operations of the engine: one table says which implementation of each runs.

A new implementation is a row of this table; backbones and scorers only ever see an `Ops`.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._bfloat16_gain import (
    attention_is_faster_in_bfloat16,
    linear_is_faster_in_bfloat16,
)
from gliclass_fast.kernels._buffers import lent
from gliclass_fast.kernels._extension import (
    absence,
    cpu_description,
    cuda_description,
    multiplies_bfloat16,
)
from gliclass_fast.kernels._sequences import (
    NO_POSITIONS,
    PAGE_ROWS,
    TILE_ROWS,
    DistanceTables,
    Positions,
    Sequences,
)
from gliclass_fast.kernels._threads import SharedThreads, torch_on_one_thread
from gliclass_fast.kernels._updates import Factors, Part, TableUpdate, Update
from gliclass_fast.kernels.feed_forward import BoundFeedForward, FeedForward
from gliclass_fast.kernels.self_attention import BoundSelfAttention, SelfAttention
from gliclass_fast.kernels.whole_layers import BoundLayers, Halves

__all__ = [
    "IMPLEMENTATIONS",
    "NO_POSITIONS",
    "ORDER",
    "PACKAGES",
    "PAGE_ROWS",
    "READS_ON_HOST",
    "TILE_ROWS",
    "AdapterRows",
    "BoundFeedForward",
    "BoundLayers",
    "BoundSelfAttention",
    "DistanceTables",
    "Factors",
    "FeedForward",
    "Ops",
    "OpsOf",
    "Part",
    "Positions",
    "SelfAttention",
    "Sequences",
    "SharedThreads",
    "TableUpdate",
    "Update",
    "choose_ops",
    "compiled_kernels",
    "implementation",
    "lent",
    "linear_is_faster_in_bfloat16",
    "torch_on_one_thread",
    "unavailable_reason",
]

logger = logging.getLogger(__name__)


def _rows(function: str, *backends: str) -> dict[str, str]:
    return {backend: f"{function}_{backend}" for backend in backends}


# The table gives the "module:function" of every operation and backend.
IMPLEMENTATIONS: dict[str, dict[str, str]] = {
    "pack_linear": {
        **_rows("linear:pack", "reference", "onednn"),
        **_rows("compiled_int8:pack", "int8"),
        **_rows("int8:pack", "int8_reference"),
        **_rows("compiled_bfloat16:pack", "bfloat16"),
        **_rows("compiled_linear:pack", "cpp"),
    },
    **{
        operation: {
            **_rows(f"linear:{operation}", "reference", "onednn", "triton"),
            **_rows(f"compiled_int8:{operation}", "int8"),
            **_rows(f"int8:{operation}", "int8_reference"),
            **_rows(f"compiled_bfloat16:{operation}", "bfloat16"),
            **_rows(f"compiled_linear:{operation}", "cpp"),
        }
        for operation in ("linear", "linear_add", "norm_linear")
    },
    "grouped_linear": _rows("grouped_linear:grouped_linear", "reference", "triton"),
    "activation": _rows("linear:activation", "reference"),
    "bind_feed_forward": {
        **_rows("feed_forward:bind_feed_forward", "reference"),
        **_rows("compiled_feed_forward:bind_feed_forward", "cpp", "int8", "bfloat16"),
    },
    "bind_layers": {
        **_rows("whole_layers:bind_layers", "reference"),
        **_rows("compiled_whole_layers:bind_layers", "cpp"),
    },
    "bind_self_attention": {
        **_rows("self_attention:bind_self_attention", "reference"),
        **_rows("compiled_self_attention:bind_self_attention", "cpp", "int8", "bfloat16"),
    },
    **{
        operation: {
            **_rows(f"norm:{operation}", "reference", "triton"),
            **_rows(f"compiled_norm:{operation}", "cpp"),
        }
        for operation in ("layer_norm", "embedding_norm", "add_norm", "head_norm")
    },
    "attention": {
        **_rows("attention:attention", "reference", "triton"),
        **_rows("compiled_attention:attention", "cpp", "cpp_bfloat16"),
        **_rows("flash_attention:attention", "flash"),
    },
    "cross_attention": {
        **_rows("attention:cross_attention", "reference", "triton"),
        **_rows("compiled_attention:cross_attention", "cpp"),
    },
    "causal_attention": {
        **_rows("causal_attention:causal_attention", "reference", "triton"),
        **_rows("compiled_attention:causal_attention", "cpp"),
    },
    "pack_distances": {
        "reference": "disentangled_attention:pack_distances_reference",
        "triton": "disentangled_attention:pack_distances_by_row",
        "cuda": "disentangled_attention:pack_distances_by_row",
        **_rows("compiled_distances:pack_distances", "cpp", "cpp_bfloat16"),
    },
    "disentangled_attention": {
        **_rows("disentangled_attention:disentangled_attention", "reference", "triton"),
        **_rows("compiled_disentangled_attention:disentangled_attention", "cuda"),
        **_rows("compiled_attention:disentangled_attention", "cpp", "cpp_bfloat16"),
    },
    **{
        operation: {
            **_rows(f"lora:{operation}", "reference", "triton"),
            **_rows(f"compiled_lora:{operation}", "cpp"),
        }
        for operation in ("lora_store", "lora_add")
    },
    "table_store": {
        **_rows("adapted_attention:table_store", "reference", "cpp", "triton"),
        "cuda": "adapted_attention:table_store_triton",
    },
    "adapted_attention": {
        **_rows("adapted_attention:adapted_attention", "reference", "cpp", "cpp_bfloat16", "triton"),
        **_rows("compiled_disentangled_attention:adapted_attention", "cuda"),
    },
    "attention_pool": _rows("attention_pool:attention_pool", "reference", "triton"),
    **{
        operation: {
            **_rows(f"pairs:{operation}", "reference", "triton"),
            **_rows(f"compiled_pairs:{operation}", "cpp"),
        }
        for operation in ("pair_dot", "pair_add")
    },
    "segment_pool": _rows("segment_pool:segment_pool", "reference", "triton"),
    "segment_softmax": _rows("segment_softmax:segment_softmax", "reference", "triton"),
}
# The references of these operations read values on the host, where they walk through sequences or runs of
# rows: no CUDA graph is recorded where one of these references runs.
READS_ON_HOST = (
    "attention",
    "cross_attention",
    "causal_attention",
    "attention_pool",
    "disentangled_attention",
    "lora_add",
    "adapted_attention",
    "segment_softmax",
)
# Operators of PyTorch that have no public name, so that another version may not have them.
PRIVATE = {"onednn": ("mkldnn._reorder_linear_weight", "mkldnn._linear_pointwise")}
PACKAGES = ("flash",)  # kernels of other packages, which run only where they are asked for
ORDER = {"cuda": ("cuda", "triton", "reference"), "cpu": ("cpp", "onednn", "reference")}
# What comes before these orders where rounding is asked for. Where the last one cannot run, none of them can.
# Attention rounds only where a measurement says that it is faster so.
ROUNDED = {"int8": ("int8", "cpp_bfloat16", "int8_reference"), "bfloat16": ("cpp_bfloat16", "bfloat16")}


@dataclass(frozen=True, slots=True)
class Ops:
    """Holds one callable per operation, which its kernel file describes. `chosen` names each backend."""

    pack_linear: Callable[..., Tensor]
    linear: Callable[..., Tensor]
    linear_add: Callable[..., Tensor]
    norm_linear: Callable[..., Tensor]
    grouped_linear: Callable[..., tuple[Tensor, Tensor]]
    activation: Callable[..., Tensor]
    bind_feed_forward: Callable[[FeedForward], BoundFeedForward | None]
    bind_self_attention: Callable[[SelfAttention], BoundSelfAttention | None]
    bind_layers: Callable[[Halves], BoundLayers | None]
    layer_norm: Callable[..., Tensor]
    embedding_norm: Callable[..., Tensor]
    add_norm: Callable[..., Tensor]
    head_norm: Callable[..., Tensor]
    attention: Callable[..., Tensor]
    cross_attention: Callable[..., Tensor]
    causal_attention: Callable[..., Tensor]
    pack_distances: Callable[..., DistanceTables]
    disentangled_attention: Callable[..., Tensor]
    lora_store: Callable[..., Any]
    lora_add: Callable[..., Tensor]
    table_store: Callable[..., Any]
    adapted_attention: Callable[..., Tensor]
    attention_pool: Callable[..., Tensor]
    pair_dot: Callable[..., Tensor]
    pair_add: Callable[..., Tensor]
    segment_pool: Callable[..., Tensor]
    segment_softmax: Callable[..., Tensor]
    chosen: dict[str, str]

    def packing_into(self, empty: Callable[..., Tensor]) -> Ops:
        """Returns the same operations; what they pack may lie in memory of `empty`, a kind of torch.empty."""
        return replace(
            self,
            pack_linear=partial(self.pack_linear, empty=empty),
            pack_distances=partial(self.pack_distances, empty=empty),
        )

    @property
    def own_threads(self) -> bool:
        """Tells whether kernels with threads of their own do nearly all the work, on a CPU."""
        return self.chosen["linear"] == "cpp"

    @property
    def recordable(self) -> bool:
        """Tells whether a CUDA graph of any of these holds for another batch.

        It does where none waits for values of its arguments or is launched for their number of sequences.
        """
        return not any(self.chosen[operation] in ("reference", *PACKAGES) for operation in READS_ON_HOST)


OpsOf = Callable[[Any], Ops]  # gives the operations of a backbone, from its own Config


def unavailable_reason(
    backend: str,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    head_width: int | None = None,
) -> str | None:
    """Returns why a backend cannot run on `device` in `dtype`, or None where it can.

    head_width: the width of the model's attention heads, as some kernels are made for some widths alone.
    """
    device = torch.device(device)
    if backend in ("cpp", "onednn", *chain(*ROUNDED.values())):
        if device.type != "cpu":
            return f"{backend} runs on CPUs"
        if dtype is not torch.float32:
            return f"{backend} computes in float32 only, not {dtype}"
        if backend in ("cpp", "cpp_bfloat16", "int8", "bfloat16"):
            if backend == "cpp_bfloat16" and not (absence("cpu") or multiplies_bfloat16()):
                return "this processor has no instructions that multiply bfloat16"
            return absence("cpu")
        if backend == "onednn" and not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return "this torch build has no oneDNN"
        if lacking := [name for name in PRIVATE.get(backend, ()) if not has_operator(name)]:
            return f"this torch has no operator {lacking[0]}"
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed"
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            return "Triton runs on GPUs; TRITON_INTERPRET=1 has it interpreted on a CPU, slowly"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
            return "Triton kernels need a GPU of compute capability 8.0 (Ampere) or later"
    if backend == "cuda":
        return _cuda_reason(device, dtype, head_width)
    if backend == "flash":
        flash = importlib.import_module("gliclass_fast.kernels.flash_attention")
        reason: str | None = flash.unusable(device, dtype, head_width)
        return reason
    return None


def has_operator(name: str) -> bool:
    namespace, _, operator = name.partition(".")
    return hasattr(getattr(torch.ops, namespace), operator)


def _cuda_reason(device: torch.device, dtype: torch.dtype, head_width: int | None) -> str | None:
    compiled = importlib.import_module("gliclass_fast.kernels.compiled_disentangled_attention")
    if device.type != "cuda":
        return "compiled CUDA kernels run on GPUs"
    if reason := absence("cuda"):
        return reason
    if dtype not in compiled.DTYPES:
        return f"compiled CUDA kernels are for 16 bit, not {dtype}"
    if head_width not in (None, compiled.HEAD_WIDTH):
        return f"compiled CUDA kernels are for heads {compiled.HEAD_WIDTH} wide, not {head_width}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "compiled CUDA kernels need a GPU of compute capability 8.0 (Ampere) or later"
    if problem := compiled.problem(device):
        return f"this GPU does not take the compiled CUDA kernels: {problem}"
    return None


def compiled_kernels() -> dict[str, str]:
    """Says what the compiled extension holds for CPUs and for GPUs, or why it holds nothing."""
    return {"CPU": cpu_description(), "CUDA": cuda_description()}


def choose_ops(
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    only: str | None = None,
    head_width: int | None = None,
    rounding: str | None = None,
) -> Ops:
    """Chooses implementations for `device` and `dtype`: for each operation the first of `ORDER` that can run.

    only: a backend's name. The operations that it implements use it, and the rest use the reference, or the
    table where the backend is one of `PACKAGES`. It never falls back silently.
    rounding: a key of `ROUNDED`, whose backends round on purpose. The first of them that can run is preferred
        for the operations that it implements.

    Raises ValueError for a device without an order, and for a backend that does not exist or cannot run.
    """
    kind = torch.device(device).type
    if kind not in ORDER:
        raise ValueError(f"device {kind!r} is not supported; supported: {', '.join(ORDER)}")
    order = ORDER[kind] if only is None else tuple(dict.fromkeys((only, "reference")))
    if only in PACKAGES:
        order = (only, *ORDER[kind])
    rounded = () if rounding is None else ROUNDED[rounding]
    if rounded and not attention_is_faster_in_bfloat16():
        rounded = tuple(backend for backend in rounded if backend != "cpp_bfloat16")
    for wanted in filter(None, (only, *rounded[-1:])):
        known = dict.fromkeys(backend for rows in IMPLEMENTATIONS.values() for backend in rows)
        if wanted not in known:
            raise ValueError(f"backend {wanted!r} does not exist; choose one of: {', '.join(known)}")
        if reason := unavailable_reason(wanted, device, dtype, head_width):
            raise ValueError(f"backend {wanted!r} cannot run: {reason}")
    order = (*rounded, *order)
    usable = [backend for backend in order if unavailable_reason(backend, device, dtype, head_width) is None]
    chosen = {op: next(b for b in usable if b in rows) for op, rows in IMPLEMENTATIONS.items()}
    # They read the layouts that these write; adapters have one layout beside both of the compiled ones.
    if chosen["bind_feed_forward"] != chosen["pack_linear"] or chosen["lora_store"] != "cpp":
        chosen["bind_feed_forward"] = "reference"
    of_attention = {chosen[name] for name in ("attention", "disentangled_attention", "pack_distances")}
    compiled = of_attention in ({"cpp"}, {"cpp_bfloat16"})
    if chosen["bind_self_attention"] != chosen["pack_linear"] or not compiled:
        chosen["bind_self_attention"] = "reference"
    if kind == "cpu" and only is None and dtype is torch.float32 and (reason := absence("cpu")):
        _warn_of_slowness(reason)
    logger.info("operations on %s: %s", kind, chosen)
    operations = {op: implementation(op, backend) for op, backend in chosen.items()}
    if of_attention == {"cpp_bfloat16"} and chosen["bind_self_attention"] != "reference":
        operations["bind_self_attention"] = partial(operations["bind_self_attention"], bfloat16=True)
    return Ops(**operations, chosen=chosen)


@cache  # once in a process
def _warn_of_slowness(reason: str) -> None:
    logger.warning("models on the CPU run slower than they could: %s", reason)


def implementation(operation: str, backend: str) -> Callable[..., Any]:
    """Returns a backend's function for an operation; raises KeyError where the table has none."""
    module, function = IMPLEMENTATIONS[operation][backend].split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(f"gliclass_fast.kernels.{module}"), function)
    return found
