"""Stock tensors -> our parameters, strict both ways: every parameter filled, every tensor used once.

A WEIGHTS table maps our parameter name to the stock names that make it up, concatenated along dimension 0 in
order. `{i}` stands for a layer number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

Weights = Mapping[str, tuple[str, ...]]


_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")


class CheckpointError(ValueError):
    """A checkpoint that is missing, truncated or does not fit; the message names the file or the tensors."""


def affine(modules: Mapping[str, str | Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """WEIGHTS rows for the weight and the bias of layers: our module <- theirs, or several of theirs."""
    return {
        f"{ours}.{kind}": tuple(
            f"{each}.{kind}" for each in ([theirs] if isinstance(theirs, str) else theirs)
        )
        for ours, theirs in modules.items()
        for kind in ("weight", "bias")
    }


class SafetensorsFolder(Mapping[str, Tensor]):
    """The tensors of `model.safetensors`, or of the shards its index lists.

    Every lookup maps the file anew, so that a tensor's pages leave memory with the tensor: packed weights do
    not keep their stock form resident, and of an embedding table only the rows in use are.
    """

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError where a file is missing, truncated, of another format, or a pickle."""
        index = folder / "model.safetensors.index.json"
        files = [folder / "model.safetensors"]
        if not files[0].exists() and index.exists():
            try:
                names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            except (ValueError, LookupError, TypeError, AttributeError):
                raise CheckpointError(f"{index} is not an index of shards") from None
            files = [folder / name for name in sorted(names)]
        self._files: dict[str, Path] = {}
        for file in files:
            if not file.exists():
                raise CheckpointError(_missing(folder, file))
            try:
                with safe_open(file, framework="pt") as opened:
                    self._files.update(dict.fromkeys(opened.keys(), file))
            except SafetensorError as error:
                raise CheckpointError(f"{file} is truncated or not a safetensors file: {error}") from None

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _missing(folder: Path, file: Path) -> str:
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return (
            f"{folder / pickles[0]} is a pickle file, which can run code when it is opened: refused. "
            "Convert it where you trust it: safetensors.torch.save_file("
            f"torch.load({pickles[0]!r}, weights_only=True), 'model.safetensors')"
        )
    return f"{file} does not exist"


class Checkpoint:
    """Stock tensors that are handed out once each. `source` names them in error messages."""

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self._tensors = tensors
        self._unused = set(tensors)
        self._missing: list[str] = []
        self.source = source

    def shape(self, name: str) -> torch.Size | None:
        """The shape of a stock tensor, or None where there is none of that name."""
        return self._tensors[name].shape if name in self._tensors else None

    def fill(
        self, module: nn.Module, weights: Weights, prefix: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Gives every parameter of `module` its tensor, on `device` in `dtype`; `close` lists missing ones.

        A tensor that already has both is shared, not copied: nothing may change a parameter in place.
        """
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
            tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
            if tensor.shape != parameter.shape:
                shapes = ", ".join(f"{s} {list(t.shape)}" for s, t in zip(stock, parts, strict=True))
                raise CheckpointError(
                    f"{self.source}: {shapes} does not fit the configuration: {list(parameter.shape)}"
                )
            self._unused.difference_update(stock)
            owner, _, attribute = name.rpartition(".")
            filled = nn.Parameter(tensor.to(device, dtype), requires_grad=False)
            setattr(module.get_submodule(owner), attribute, filled)

    def close(self, ignored: Iterable[str]) -> None:
        """Raises CheckpointError unless all parameters were filled and all tensors but `ignored` used."""
        unused = sorted(n for n in self._unused if not any(fnmatchcase(n, pattern) for pattern in ignored))
        if self._missing or unused:
            raise CheckpointError(
                f"{self.source} does not match its configuration. "
                f"Missing tensors: {_listed(sorted(self._missing))}. Tensors nothing uses: {_listed(unused)}."
            )


def _listed(names: list[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more if names else "none"
