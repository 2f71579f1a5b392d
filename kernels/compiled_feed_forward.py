"""The layer of csrc/cpu/feed_forward.cpp in PyTorch: its contract stands in feed_forward.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._extension import address, extension
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels.compiled_int8 import NORMS, bytes_per_output
from gliclass_fast.kernels.compiled_linear import FUSED
from gliclass_fast.kernels.compiled_lora import PackedStore
from gliclass_fast.kernels.feed_forward import BoundFeedForward, FeedForward
from gliclass_fast.kernels.lora import StoredUpdate

NO_UPDATES: list[StoredUpdate | None] = []


class _Bound:
    """Keeps a layer's weights, and their addresses for the kernel.

    A weight may get other memory, as by `share_memory_` or a new `.data` of its shape: its address is then
    read anew.
    """

    def __init__(self, layer: FeedForward, int8: bool) -> None:
        self.layer, self.int8 = layer, int8
        none = None, None
        first, last = layer.first_norm or none, layer.last_norm or none
        before_up = layer.up_norm_parameters or none
        given = {
            "out": layer.out,
            "out_bias": layer.out_bias,
            "up": layer.up,
            "up_bias": layer.up_bias,
            "down": layer.down,
            "down_bias": layer.down_bias,
            "up_norm_weight": before_up[0],
            "up_norm_bias": before_up[1],
            "first_weight": first[0],
            "first_bias": first[1],
            "last_weight": last[0],
            "last_bias": last[1],
        }
        self.tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
        self.bind()

    def __reduce__(self) -> tuple[type[_Bound], tuple[FeedForward, bool]]:
        return _Bound, (self.layer, self.int8)

    def bind(self) -> None:
        layer = self.layer
        _check(layer, self.int8)
        self.bound = extension().FeedForward(
            int8=self.int8,
            depth=layer.depth,
            width=layer.width,
            inner=layer.inner,
            activation=FUSED[layer.activation],
            gated=layer.gated,
            norm=NORMS[layer.up_norm],
            rms=layer.rms,
            eps=layer.eps,
            **{name: address(tensor) for name, tensor in self.tensors.items()},
        )
        self.addresses = self.read_addresses()

    def read_addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.tensors.values()]

    def __call__(
        self,
        x: Tensor,
        attended: Tensor,
        rows: AdapterRows | None = None,
        stores: Sequence[PackedStore | None] = (),
    ) -> tuple[Tensor, Tensor]:
        layer = self.layer
        if self.read_addresses() != self.addresses:
            self.bind()
        x, attended = x.contiguous(), attended.contiguous()
        _check_tensor(x, torch.float32, (len(x), layer.width))
        _check_tensor(attended, torch.float32, (len(x), layer.depth))
        apart = layer.last_norm is not None and layer.first_norm is None
        total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        last = torch.empty(x.shape, dtype=x.dtype, device=x.device) if apart else total
        runs = [(0, len(x), NO_UPDATES)] if rows is None else _changes(rows, stores)
        if runs and runs[-1][1] != len(x):
            raise ValueError(f"needs an adapter, or none, for {len(x)} rows, got {runs[-1][1]}")
        for start, end, held in runs:
            self._run(held, *(each[start:end] for each in (x, attended, total, last)))
        return total, last

    def _run(
        self, held: Sequence[StoredUpdate | None], x: Tensor, attended: Tensor, total: Tensor, last: Tensor
    ) -> None:
        updates = [self._read(update, number) for number, update in enumerate(held)]
        extension().feed_forward_cpu(
            _extension.instruction_set()[0], self.bound, updates, address(x), address(attended), len(x),
            address(total), address(last), thread_count(),
        )  # fmt: skip

    def _read(self, update: StoredUpdate | None, number: int) -> tuple[int, int, int]:
        """Returns what the kernel is told of an update, for a map by its number: addresses and rank."""
        if update is None:
            return 0, 0, 0
        layer, (a, [(_, _, b)]) = self.layer, update
        inputs = layer.depth, layer.width, layer.inner
        outputs = layer.width, _up_outputs(layer), layer.width
        _check_tensor(a, torch.float32, (len(a), inputs[number]))
        _check_tensor(b, torch.float32, (outputs[number], len(a)))
        return address(a), address(b), len(a)


def _changes(
    rows: AdapterRows, stores: Sequence[PackedStore | None]
) -> list[tuple[int, int, list[StoredUpdate | None]]]:
    """Returns (first row, end, updates of the maps) of neighbours whose maps are changed alike.

    The updates are held here while the kernel reads them, as a store may exchange them meanwhile.
    """
    runs: list[tuple[int, int, list[StoredUpdate | None]]] = []
    for slot, start, end in rows.runs:
        held = [None if store is None else store.updates.get(slot) for store in stores]
        if runs and not any(held) and not any(runs[-1][2]):
            start = runs.pop()[0]
        runs.append((start, end, held))
    return runs


def _check(layer: FeedForward, int8: bool) -> None:
    """Raises ValueError where the kernel would read something other than what it is given."""
    maps = (
        (layer.out, layer.out_bias, layer.width, layer.depth),
        (layer.up, layer.up_bias, _up_outputs(layer), layer.width),
        (layer.down, layer.down_bias, layer.width, layer.inner),
    )
    for weight, bias, outputs, inputs in maps:
        packed = (outputs * bytes_per_output(inputs),) if int8 else (outputs, inputs)
        _check_tensor(weight, torch.uint8 if int8 else torch.float32, packed)
        if bias is not None:
            _check_tensor(bias, torch.float32, (outputs,))
    for norm in (layer.first_norm, layer.last_norm, layer.up_norm_parameters):
        for given in norm or ():
            if given is not None:
                _check_tensor(given, torch.float32, (layer.width,))


def _up_outputs(layer: FeedForward) -> int:
    return (2 if layer.gated else 1) * layer.inner


def _check_tensor(given: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    if given.dtype is not dtype or given.shape != shape:
        raise ValueError(f"needs {dtype} {list(shape)}, got {given.dtype} {list(given.shape)}")


def _bind(layer: FeedForward, int8: bool) -> BoundFeedForward | None:
    _, lanes = _extension.instruction_set()
    if layer.activation not in FUSED or (layer.gated and layer.inner % lanes):
        return None
    return _Bound(layer, int8)


def bind_feed_forward_cpp(layer: FeedForward) -> BoundFeedForward | None:
    return _bind(layer, int8=False)


def bind_feed_forward_int8(layer: FeedForward) -> BoundFeedForward | None:
    return _bind(layer, int8=True)
