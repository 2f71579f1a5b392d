"""Foreign files: their kind and size are checked before they are read, and JSON is read with bounds."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

from gliclass_fast.checkpoint.errors import CheckpointError, MissingCheckpointError

# Parsed JSON takes up to forty times its text. The longest files of this kind have 1.2 MB.
MOST_JSON_BYTES = 2 << 20
MOST_DEPTH = 64  # lists and objects within each other


def path_of(name: str | os.PathLike[str]) -> Path:
    """Returns the path of a name: as it is given where it exists, else with the home that a ~ stands for."""
    return Path(name if os.path.exists(name) else os.path.expanduser(name))


def check_file(file: Path, most_bytes: int | None = None) -> None:
    """Raises CheckpointError unless a file exists, is no device, pipe or folder, and is not too large.

    A file that does not exist is a MissingCheckpointError. Links are followed. most_bytes: None where any
    size will do.
    """
    try:
        found = file.stat()
    except FileNotFoundError:
        raise MissingCheckpointError(f"{file} does not exist") from None
    except OSError as error:  # such as a loop of links
        raise CheckpointError(f"{file} cannot be opened: {error}") from None
    if not S_ISREG(found.st_mode):
        raise CheckpointError(f"{file} is not a regular file")
    if most_bytes is not None and found.st_size > most_bytes:
        raise CheckpointError(
            f"{file} has {found.st_size} bytes, and at most {most_bytes} are read of such a file"
        )


def read_object(file: Path) -> dict[str, Any]:
    """Returns the JSON object of a file; raises CheckpointError for anything else, which names the file."""
    check_file(file, MOST_JSON_BYTES)
    try:
        return parse_object(file.read_bytes(), str(file))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None


def parse_object(text: bytes, source: str) -> dict[str, Any]:
    """Returns a JSON object; raises CheckpointError, which starts with `source`, for anything else.

    A name that comes twice in an object is an error, and so are more than MOST_DEPTH objects and lists
    within each other.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=object_of_unique_names)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{source} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{source} holds a {type(value).__name__}, not an object of options")
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        nested = [each for each in level if isinstance(each, (dict, list))]
        level = [child for each in nested for child in (each.values() if isinstance(each, dict) else each)]
    if level:
        raise CheckpointError(f"{source} is nested more than {MOST_DEPTH} deep")
    return value


def object_of_unique_names(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object, as json's object_pairs_hook; ValueError where a name comes twice in it."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the name {twice[:200]!r} twice")
    return found
