"""`lora_add` by csrc/cpu/lora.cpp: the contract stands in lora.py.

One call adds the updates of all adapters of a batch to their rows, in place. An update of all outputs applies
the activation as it writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gliclass_fast.kernels import _extension
from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._threads import thread_count
from gliclass_fast.kernels._updates import Update
from gliclass_fast.kernels.compiled_linear import FUSED, pack_cpp
from gliclass_fast.kernels.linear import ACTIVATIONS
from gliclass_fast.kernels.lora import ListedStore, StoredUpdate

Piece = tuple[int, int, int, int, int]  # the address of b, its first output, outputs, its first rank, ranks


class PackedStore(ListedStore):
    """Keeps the update of every slot in the kernel's layout.

    That of a map of two parts, such as values and gates, is one piece, as a bound layer takes it: B has zeros
    between the parts. Of more parts, the zeros would cost more than a product for each part.
    """

    def __init__(self, bounds: Sequence[int], depth: int, like: Tensor) -> None:
        super().__init__(bounds, depth, like)
        self._whole = bounds[-1] if len(bounds) == 3 else None

    def packed(self, update: Update) -> StoredUpdate:
        a, pieces = super().packed(update)
        if self._whole is not None:
            whole = a.new_zeros(self._whole, len(a))
            for columns, ranks, b in pieces:
                whole[columns, ranks] = b
            pieces = [(slice(0, self._whole), slice(0, len(a)), whole)]
        packed = [(columns, ranks, pack_cpp(b)) for columns, ranks, b in pieces]
        return StoredUpdate(pack_cpp(a), packed)


lora_store_cpp = PackedStore


def lora_add_cpp(
    y: Tensor, x: Tensor, rows: AdapterRows, store: PackedStore, activation: str = "none"
) -> Tensor:
    fused, x = activation in FUSED, x.contiguous()
    (count, depth), width = x.shape, y.shape[1]
    check_tensor(x, torch.float32, (count, depth))
    check_tensor(y, torch.float32, (count, width))
    if rows.runs[-1][2:] != (count,):
        raise ValueError(f"needs an adapter, or none, for {count} rows, got {rows.runs[-1][2]}")
    # the updates are held here while the kernel reads them, as the store may exchange them meanwhile
    held = [(start, end, store.updates.get(slot)) for slot, start, end in rows.runs]
    told, left = [], []
    for start, end, update in held:
        whole = update is not None and update.pieces[0][0] == slice(0, width)
        if update is not None:
            told.append(
                (start, end, *_read(update, depth, width, FUSED[activation] if fused and whole else 0))
            )
        if not whole:
            left.append((start, end))
    arguments = extension().LoraAdd(
        x=address(x), y=address(y, strided_rows=True), y_stride=y.stride(0), depth=depth, width=width,
        threads=thread_count(),
    )  # fmt: skip
    extension().lora_add_cpu(_extension.instruction_set()[0], told, arguments)
    if not fused:
        return ACTIVATIONS[activation](y)
    if activation != "none":
        for start, end in left:
            y[start:end].copy_(ACTIVATIONS[activation](y[start:end]))
    return y


def _read(update: StoredUpdate, depth: int, width: int, activation: int) -> tuple[int, int, int, list[Piece]]:
    """Returns what the kernel is told of an update, beside its rows."""
    a, pieces = update
    check_tensor(a, torch.float32, (len(a), depth))
    told: list[Piece] = []
    for columns, ranks, b in pieces:
        first, ends = (columns.start, ranks.start), (columns.stop, ranks.stop)
        shape = (ends[0] - first[0], ends[1] - first[1])
        check_tensor(b, torch.float32, shape)
        if ends[0] > width or ends[1] > len(a):
            raise ValueError(f"an update of outputs up to {ends[0]} does not fit a map of {width}")
        told.append((address(b), first[0], shape[0], first[1], shape[1]))
    return address(a), len(a), activation, told
