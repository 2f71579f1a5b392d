"""The tensors of a folder's safetensors files: each is mapped when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import unreadable

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")


class SafetensorsFiles(Mapping[str, Tensor]):
    """Holds the tensors of some files.

    Every lookup maps the file anew, so that a tensor's pages leave memory with the tensor: packed weights do
    not keep their stock form in memory, and an embedding table has only the rows in use there.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises CheckpointError where a file is truncated or of another format."""
        self._files: dict[str, Path] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    self._files.update(dict.fromkeys(opened.keys(), file))
            except SafetensorError as error:
                reason = f"is truncated or not a safetensors file: {error}"
                raise CheckpointError(unreadable(file, reason)) from None

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class SafetensorsFolder(SafetensorsFiles):
    """Holds the tensors of `model.safetensors`, or of the shards that its index lists."""

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
        for file in files:
            if not file.exists():
                raise CheckpointError(_missing(folder, file))
        super().__init__(files)


def _missing(folder: Path, file: Path) -> str:
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if pickles:
        return (
            f"{folder / pickles[0]} is a pickle file, which can run code when it is opened: refused. "
            "Convert it where you trust it: safetensors.torch.save_file("
            f"torch.load({pickles[0]!r}, weights_only=True), 'model.safetensors')"
        )
    return f"{file} does not exist"
