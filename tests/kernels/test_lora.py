"""What adapters add on a CPU to many rows, with any number of threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gliclass_fast.ops import AdapterRows, Ops, Part, choose_ops

DEPTH, WIDTH = 33, 72


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("activation", ["none", "gelu", "tanh"])
def test_threads_and_strides_change_nothing(activation: str) -> None:
    updates = [
        [Part(first, torch.randn(5, DEPTH), torch.randn(outputs, 5)) for first, outputs in parts]
        for parts in ([(0, 40), (40, 16), (56, 16)], [(40, 16)], [(0, WIDTH)])
    ]
    slots = [-1] * 9 + [0] * 300 + [2] * 40 + [-1] * 3 + [1] * 131
    rows = AdapterRows(torch.tensor(slots, dtype=torch.int32))
    x, wide = torch.randn(len(slots), DEPTH), torch.randn(len(slots), WIDTH + 8)

    def added(ops: Ops) -> Tensor:
        store = ops.lora_store((0, 40, 56, WIDTH), DEPTH, torch.empty(0))
        for slot, update in enumerate(updates):
            store.put(slot, update)
        return ops.lora_add(wide.clone()[:, :WIDTH], x, rows, store, activation)

    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.append(added(choose_ops("cpu")))
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert torch.allclose(found[0], added(choose_ops("cpu", only="reference")), atol=1e-4)
