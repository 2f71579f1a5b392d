"""What csrc/cpu runs in one call, as a half of a layer, keeps its weights and their addresses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from gliclass_fast.kernels._extension import address, check_tensor, extension
from gliclass_fast.kernels._rounded import NORMS, Rounding
from gliclass_fast.kernels.compiled_linear import FUSED

Layer = TypeVar("Layer")


class Bound(Generic[Layer]):
    """Keeps the weights of a layer, or of several, and what the kernel is told of them.

    A weight may get other memory, as by `share_memory_` or a new `.data` of its shape: its address is then
    read anew.
    """

    def __init__(self, layer: Layer, rounding: Rounding | None = None) -> None:
        self.layer, self.rounding = layer, rounding
        self.tensors = [tensor for tensor in self.weights() if tensor is not None]
        self._described = self._describe()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.layer, self.rounding)

    def weights(self) -> Iterable[Tensor | None]:
        """Returns all that the kernel reads in every call."""
        raise NotImplementedError

    def description(self) -> Any:
        """Returns what the kernel is told in every call; raises ValueError for weights of other shapes."""
        raise NotImplementedError

    def current(self) -> Any:
        """Returns the description of the weights where they are now."""
        addresses, description = self._described
        if self._addresses() != addresses:
            self._described = _, description = self._describe()
        return description

    def _describe(self) -> tuple[list[int], Any]:
        """Returns the addresses, and the description of the weights there or at newer ones.

        Both are kept as one, as threads may describe at the same time.
        """
        addresses = self._addresses()
        return addresses, self.description()

    def _addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.tensors]


def packed_map(
    weight: Tensor,
    bias: Tensor | None,
    depth: int,
    width: int,
    rounding: Rounding | None,
    norm: str | None = None,
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
) -> Any:
    """Returns a map of csrc/cpu/packed_map.h; raises ValueError for a weight or a bias of another shape."""
    outputs = 2 * width if gated else width
    if rounding is None:
        check_tensor(weight, torch.float32, (outputs, depth))
    else:
        check_tensor(weight, torch.uint8, (outputs * rounding.bytes_per_output(depth),))
    if bias is not None:
        check_tensor(bias, torch.float32, (outputs,))
    return extension().PackedMap(
        rounding=0 if rounding is None else rounding.number, weight=address(weight), bias=address(bias),
        depth=depth, width=width, norm=NORMS[norm], eps=eps, activation=FUSED[activation], gated=gated,
    )  # fmt: skip
