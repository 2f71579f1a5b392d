"""Weights: stock tensors fill our parameters, strictly: every parameter is filled and every tensor used.

A WEIGHTS table maps our parameter name to the stock names that make it up; they are concatenated along
dimension 0, in order. `{i}` stands for a layer number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gliclass_fast.checkpoint.errors import CheckpointError

Weights = Mapping[str, tuple[str, ...]]
WEIGHT_DTYPES = (
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2,
)  # fmt: skip


def affine(modules: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Makes WEIGHTS rows for the weight and the bias of layers, from our modules to one or more of theirs."""
    return {
        f"{ours}.{kind}": tuple(
            f"{each}.{kind}" for each in ([theirs] if isinstance(theirs, str) else theirs)
        )
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }


class Filled(NamedTuple):
    """Says which stock tensors made up a parameter."""

    module: nn.Module
    name: str  # of the parameter, in the module
    prefix: str  # what the stock names start with
    stock: list[str]
    shapes: list[torch.Size]


class Checkpoint:
    """Hands out stock tensors, on one device in one dtype, and remembers which were used."""

    def __init__(
        self, tensors: Mapping[str, Tensor], source: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Takes the stock tensors, which error messages call `source`."""
        self._tensors = tensors
        self._unused, self._missing = set(tensors), list[str]()
        self._ignored: list[str] = []
        self.filled: list[Filled] = []
        self.source, self._device, self._dtype = source, device, dtype

    @property
    def names(self) -> Iterable[str]:
        """Returns the names of all stock tensors."""
        return self._tensors.keys()

    def shape(self, name: str) -> torch.Size | None:
        """Returns the shape of a stock tensor, or None where there is none of that name."""
        return self._tensors[name].shape if name in self._tensors else None

    def load_weights(
        self, module: nn.Module, weights: Weights, prefix: str, unused: Iterable[str] = ()
    ) -> None:
        """Gives every parameter of `module` its tensor; `assert_all_used` lists missing ones.

        A tensor that already is on the device in the dtype is shared, not copied: nothing may change a
        parameter in place. prefix: what stock names start with. unused: patterns of stock names that nothing
        reads. Raises CheckpointError for a tensor of the wrong shape.
        """
        self._ignored += [prefix + name for name in unused]
        for name, parameter in list(module.named_parameters()):
            pattern = re.sub(r"\.\d+\.", ".{i}.", name, count=1)
            layer = re.search(r"\.(\d+)\.", name)
            sources = weights.get(name) or weights[pattern]
            stock = [prefix + source.replace("{i}", layer.group(1) if layer else "") for source in sources]
            absent = [source for source in stock if source not in self._tensors]
            if absent:
                self._missing += absent
                continue
            parts = [self._tensors[source] for source in stock]
            owner = module.get_submodule(name.rpartition(".")[0])
            self._check(
                parameter.shape, getattr(owner, "row_parts", None), dict(zip(stock, parts, strict=True))
            )
            if len({part.dtype for part in parts}) > 1:
                parts = [part.to(self._dtype) for part in parts]
            tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
            self._unused.difference_update(stock)
            filled = tensor.to(self._device, self._dtype).contiguous()  # as kernels read it
            setattr(owner, name.rpartition(".")[2], nn.Parameter(filled, requires_grad=False))
            self.filled.append(Filled(module, name, prefix, stock, [part.shape for part in parts]))

    def _check(self, shape: torch.Size, rows: Sequence[int] | None, given: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError unless tensors, one behind the other, fit the shape of a parameter.

        rows: those of each tensor; default: each has as many as the others.
        """
        for name, tensor in given.items():
            if tensor.dtype not in WEIGHT_DTYPES:
                raise CheckpointError(
                    f"{self.source}: {name} holds {tensor.dtype}, which is no dtype of weights"
                )
        wanted = [shape]
        if len(given) > 1:
            wanted = [
                torch.Size((each, *shape[1:])) for each in rows or [shape[0] // len(given)] * len(given)
            ]
        if [tensor.shape for tensor in given.values()] != wanted:
            shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in given.items())
            raise CheckpointError(f"{self.source}: {shapes} does not fit the configuration: {list(shape)}")

    def is_unused(self, name: str) -> bool:
        """Tells whether a stock tensor is one that nothing reads, as the callers of `load_weights` said."""
        return any(fnmatchcase(name, pattern) for pattern in self._ignored)

    def assert_all_used(self, ignored: Iterable[str] = ()) -> None:
        """Raises CheckpointError unless all parameters have their tensor and all other tensors were used.

        ignored: patterns of further stock names that nothing reads.
        """
        patterns = [*self._ignored, *ignored]
        unused = sorted(n for n in self._unused if not any(fnmatchcase(n, pattern) for pattern in patterns))
        if self._missing or unused:
            raise CheckpointError(
                f"{self.source} does not match its configuration. "
                f"Missing tensors: {_listed(sorted(self._missing))}. Tensors nothing uses: {_listed(unused)}."
            )


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
