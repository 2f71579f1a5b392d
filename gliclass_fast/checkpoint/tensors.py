"""The tensors of a folder's safetensors files: each is mapped when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gliclass_fast.checkpoint.documents import check_file, read_object
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import unreadable
from gliclass_fast.checkpoint.headers import tensor_names
from gliclass_fast.checkpoint.weights import WEIGHT_DTYPES

_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
_PART = 1 << 24  # values that are checked at a time


class SafetensorsFiles(Mapping[str, Tensor]):
    """Holds the tensors of some files.

    Every lookup maps the file anew, so that a tensor's pages leave memory with the tensor: packed weights do
    not keep their stock form in memory, and an embedding table has only the rows in use there.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises CheckpointError where a file is missing, truncated or lies, or two files hold one tensor."""
        self._files: dict[str, Path] = {}
        self._finite: set[str] = set()
        for file in files:
            for name in tensor_names(file):
                if name in self._files:
                    raise CheckpointError(f"{name!r} is in {self._files[name]} and in {file.name}")
                self._files[name] = file

    def __getitem__(self, name: str) -> Tensor:
        """Maps a tensor; raises CheckpointError where it holds NaN or an infinite value.

        An embedding table in float16 may hold infinite values: what was beyond 65504 when it was stored. They
        fail the texts alone that have such a token.
        """
        file = self._files[name]
        try:
            if name not in self._finite:
                # through a mapping of its own, so that the pages that only this reads leave memory
                _assert_finite(_mapped(file, name), f"{file}: {name!r}", _is_table(name))
                self._finite.add(name)
            return _mapped(file, name)
        except (SafetensorError, OSError) as error:
            reason = f"is truncated or not a safetensors file: {error}"
            raise CheckpointError(unreadable(file, reason)) from None

    def __contains__(self, name: object) -> bool:
        """Tells whether there is a tensor, which is not mapped for it."""
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _mapped(file: Path, name: str) -> Tensor:
    # older safetensors give a tensor without values where torch's default device is "meta"
    with torch.device("cpu"), safe_open(file, framework="pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


class SafetensorsFolder(SafetensorsFiles):
    """Holds the tensors of `model.safetensors`, or of the shards that its index lists."""

    def __init__(self, folder: Path) -> None:
        """Raises CheckpointError where a file is missing, truncated, of another format, or a pickle."""
        index = folder / "model.safetensors.index.json"
        files = [folder / "model.safetensors"]
        if not files[0].exists() and index.exists():
            files = [folder / name for name in _shards(index)]
        for file in files:
            if not file.exists() and (reason := _pickle(folder)):
                raise CheckpointError(reason)
            check_file(file)
        super().__init__(files)


def _shards(index: Path) -> list[str]:
    """Returns the names of an index's files; raises CheckpointError for one that is outside its folder."""
    try:
        places = read_object(index).get("weight_map")
    except CheckpointError as error:
        raise CheckpointError(f"{index} is not an index of shards: {error}") from None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} is not an index of shards: it has no weight_map")
    for name, shard in places.items():
        plain = isinstance(shard, str) and shard.endswith(".safetensors")
        if not plain or {"/", "\\", "\0"} & set(shard):
            raise CheckpointError(
                f"{index}: weight_map places {name!r} in {shard!r}; supported: the name of a safetensors "
                "file beside the index"
            )
    return sorted(set(places.values()))


def _is_table(name: str) -> bool:
    """Tells whether a tensor is a table of word embeddings, of which a text reads the rows of its tokens."""
    return name.endswith(
        ("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight", "shared.weight")
    )


def _assert_finite(tensor: Tensor, source: str, is_table: bool) -> None:
    """Raises CheckpointError, which starts with `source`, where a tensor of floats holds NaN or infinity.

    is_table: whether infinite values are taken where the tensor is in float16.
    """
    if tensor.dtype not in WEIGHT_DTYPES:
        return
    narrow = tensor.dtype.itemsize == 1  # torch does not add up such numbers
    overflowed = is_table and tensor.dtype is torch.float16
    for values in torch.split(tensor.flatten(), _PART):
        part = values.float() if narrow else values
        # a sum finds both and is quick; one that only overflows is looked at again
        if not part.sum().isfinite() and (part.isnan().any() if overflowed else not part.isfinite().all()):
            raise CheckpointError(f"{source} holds NaN or infinite values")


def _pickle(folder: Path) -> str | None:
    """Returns why a folder's weights are refused, where they are a pickle."""
    pickles = [name for name in _PICKLES if (folder / name).exists()]
    if not pickles:
        return None
    return (
        f"{folder / pickles[0]} is a pickle file, which can run code when it is opened: refused. "
        "Convert it where you trust it: safetensors.torch.save_file("
        f"torch.load({pickles[0]!r}, weights_only=True), 'model.safetensors')"
    )
