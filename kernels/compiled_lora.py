"""`lora_add` by the linear kernel of csrc/cpu: the contract stands in lora.py.

The kernel adds to rows in place, and applies the activation as it writes them, so that an adapter costs one
pass over its rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gliclass_fast.kernels._adapter_rows import AdapterRows
from gliclass_fast.kernels._updates import Update
from gliclass_fast.kernels.compiled_linear import FUSED, map_rows, pack_cpp
from gliclass_fast.kernels.linear import ACTIVATIONS
from gliclass_fast.kernels.lora import ListedStore, StoredUpdate


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
            pieces = [(slice(self._whole), slice(len(a)), whole)]
        packed = [(columns, ranks, pack_cpp(b)) for columns, ranks, b in pieces]
        return StoredUpdate(pack_cpp(a), packed)


lora_store_cpp = PackedStore


def lora_add_cpp(
    y: Tensor, x: Tensor, rows: AdapterRows, store: PackedStore, activation: str = "none"
) -> Tensor:
    fused = activation in FUSED
    for slot, start, end in rows.runs:
        own, whole = y[start:end], False
        if slot in store.updates:
            a, pieces = store.updates[slot]
            inner = map_rows(x[start:end], a)
            whole = len(pieces) == 1 and pieces[0][2].shape[0] == y.shape[1]
            for columns, ranks, b in pieces:
                written = activation if fused and whole else "none"
                map_rows(inner[:, ranks], b, activation=written, onto=own[:, columns])
        if fused and not whole and activation != "none":
            own.copy_(ACTIVATIONS[activation](own))
    return y if fused else ACTIVATIONS[activation](y)
