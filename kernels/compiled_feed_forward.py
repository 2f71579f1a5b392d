"""The layer of csrc/cpu/feed_forward.cpp in PyTorch: its contract stands in feed_forward.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gliclass_fast.kernels import _buffers, _extension
from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._bound import Bound, packed_map
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._rounded import Rounding
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_bfloat16 import BFLOAT16
from gliclass_fast.kernels.compiled_int8 import INT8
from gliclass_fast.kernels.compiled_linear import FUSED
from gliclass_fast.kernels.compiled_lora import PackedStore
from gliclass_fast.kernels.feed_forward import BoundFeedForward, FeedForward
from gliclass_fast.kernels.lora import StoredUpdate

Held = Sequence[StoredUpdate | None]  # of the maps out, up and down
UNCHANGED: Held = (None, None, None)


class BoundHalf(Bound[FeedForward]):
    def weights(self) -> Iterable[Tensor | None]:
        layer = self.layer
        yield from (layer.out, layer.out_bias, layer.up, layer.up_bias, layer.down, layer.down_bias)
        for norm in (layer.first_norm, layer.up_norm_parameters, layer.last_norm):
            yield from norm or ()

    def description(self) -> Any:
        layer, rounding = self.layer, self.rounding
        norms = {"first": layer.first_norm, "up_norm": layer.up_norm_parameters, "last": layer.last_norm}
        parameters = {}
        for name, norm in norms.items():
            for part, given in zip(("weight", "bias"), norm or (), strict=False):
                if given is not None:
                    check_tensor(given, torch.float32, (layer.width,))
                    parameters[f"{name}_{part}"] = address(given)
        return extension().FeedForward(
            out=packed_map(layer.out, layer.out_bias, layer.depth, layer.width, rounding),
            up=packed_map(
                layer.up, layer.up_bias, layer.width, layer.inner, rounding,
                layer.up_norm, layer.eps, layer.activation, layer.gated,
            ),
            down=packed_map(layer.down, layer.down_bias, layer.inner, layer.width, rounding),
            rms=layer.rms,
            eps=layer.eps,
            **parameters,
        )  # fmt: skip

    @property
    def apart(self) -> bool:
        """Tells whether the sum and its norm are both read."""
        return self.layer.last_norm is not None and self.layer.first_norm is None

    def __call__(
        self,
        x: Tensor,
        attended: Tensor,
        rows: AdapterRows | None = None,
        stores: Sequence[PackedStore | None] = (None, None, None),
    ) -> tuple[Tensor, Tensor]:
        layer, count = self.layer, x.shape[0]
        x, attended = x.contiguous(), attended.contiguous()
        check_tensor(x, torch.float32, (count, layer.width))
        check_tensor(attended, torch.float32, (count, layer.depth))
        total = _buffers.empty(count, layer.width)
        last = _buffers.empty(count, layer.width) if self.apart else total
        runs = [(0, count, UNCHANGED)] if rows is None else _runs(rows, stores)
        if runs and runs[-1][1] != count:
            raise ValueError(f"needs an adapter, or none, for {count} rows, got {runs[-1][1]}")
        told = [(start, end, [self._read(*each) for each in enumerate(held)]) for start, end, held in runs]
        extension().feed_forward_cpu(
            _extension.instruction_set()[0], self.current(), told, address(x), address(attended),
            address(total), address(last), thread_count(),
        )  # fmt: skip
        return total, last

    def _read(self, number: int, update: StoredUpdate | None) -> tuple[int, int, int]:
        """Returns what the kernel is told of an update, for a map by its number: addresses and rank."""
        if update is None:
            return 0, 0, 0
        layer, (a, [(_, _, b)]) = self.layer, update
        inputs = layer.depth, layer.width, layer.inner
        outputs = layer.width, (2 if layer.gated else 1) * layer.inner, layer.width
        check_tensor(a, torch.float32, (len(a), inputs[number]))
        check_tensor(b, torch.float32, (outputs[number], len(a)))
        return address(a), address(b), len(a)


def _runs(rows: AdapterRows, stores: Sequence[PackedStore | None]) -> list[tuple[int, int, Held]]:
    """Returns (first row, end, updates of the maps) of neighbours whose maps are changed alike.

    The updates are held here while the kernel reads them, as a store may exchange them meanwhile.
    """
    runs: list[tuple[int, int, Held]] = []
    for slot, start, end in rows.runs:
        held = [None if store is None else store.updates.get(slot) for store in stores]
        if runs and not any(held) and not any(runs[-1][2]):
            start = runs.pop()[0]
        runs.append((start, end, held))
    return runs


def _bind(layer: FeedForward, rounding: Rounding | None = None) -> BoundFeedForward | None:
    _, lanes = _extension.instruction_set()
    if layer.activation not in FUSED or (layer.gated and layer.inner % lanes):
        return None
    return BoundHalf(layer, rounding)


bind_feed_forward_cpp = _bind
bind_feed_forward_int8 = partial(_bind, rounding=INT8)
bind_feed_forward_bfloat16 = partial(_bind, rounding=BFLOAT16)
