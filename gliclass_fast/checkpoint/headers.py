"""The headers of safetensors files: where every tensor is, checked before anything of it is mapped.

A file is the length of the header in 8 bytes, the header, which is JSON, and the tensors without a gap.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from gliclass_fast.checkpoint.documents import MOST_JSON_BYTES, check_file, parse_object
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import unreadable

MOST_NAME = 256  # characters of a tensor's name
_LENGTH_BYTES = 8
_SIZES = {  # bytes of a value; other dtypes are checked where the tensor is read
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def tensor_names(file: Path) -> list[str]:
    """Returns the names of a file's tensors.

    Raises CheckpointError, which names the file and the tensor, unless the header describes exactly the bytes
    that follow it, each of them once.
    """
    check_file(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
        size = file.stat().st_size - _LENGTH_BYTES - length
        if size < 0:
            reason = f"is truncated or not a safetensors file: a header of {length} bytes is not there"
            raise CheckpointError(unreadable(file, reason))
        if length > MOST_JSON_BYTES:
            raise CheckpointError(
                f"{file}: its header has {length} bytes, and at most {MOST_JSON_BYTES} are read"
            )
        header = parse_object(opened.read(length), f"{file}: its header")
    header.pop("__metadata__", None)
    places = sorted((*_place(file, name, entry), name) for name, entry in header.items())
    end = 0
    for start, after, name in places:
        if start != end:
            raise CheckpointError(
                f"{file}: data_offsets of {name!r} start at {start}, where the tensor before it ends at {end}"
            )
        end = after
    if end != size:
        raise CheckpointError(
            f"{file} is truncated or not a safetensors file: its header describes {end} bytes of tensors, "
            f"and {size} are there"
        )
    return list(header)


def _place(file: Path, name: str, entry: Any) -> tuple[int, int]:
    """Returns where a tensor starts and ends in the bytes that follow the header."""
    if len(name) > MOST_NAME:
        raise CheckpointError(f"{file}: the name {name[:40]!r}... has {len(name)} characters")
    if not name.isprintable():  # messages have names as they are
        raise CheckpointError(f"{file}: the name {name!r} has characters that cannot be shown")
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape", ()), fields.get("data_offsets", ())
    if not isinstance(dtype, str):
        raise CheckpointError(f"{file}: dtype of {name!r} is {dtype!r}")
    for field, values in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(values, list) or not all(type(each) is int and each >= 0 for each in values):
            raise CheckpointError(f"{file}: {field} of {name!r} is not a list of numbers from 0 on")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{file}: data_offsets of {name!r} are {offsets}, not a start and an end")
    start, end = offsets
    if dtype in _SIZES and math.prod(shape) * _SIZES[dtype] != end - start:
        raise CheckpointError(
            f"{file}: shape {shape} of {name!r} in dtype {dtype} does not fit its {end - start} bytes"
        )
    return start, end
