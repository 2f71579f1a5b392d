"""Adapter folders: where a caller says that one is, and whether its files are still those that were read."""

from __future__ import annotations

import os
from pathlib import Path

from gliclass_fast.checkpoint.documents import path_of
from gliclass_fast.checkpoint.errors import CheckpointError
from gliclass_fast.checkpoint.files import resolve_folder
from gliclass_fast.checkpoint.lora import CONFIG, TENSORS, adapter_place

Stamp = tuple[tuple[int, int, int], ...]  # per file: inode, time of the last change in ns, bytes


def resolve_adapter(path_or_repo_id: str | Path) -> Path:
    """Returns the local folder of an adapter: the path itself, or a download of the repository's files.

    Raises TypeError for what is no path, and CheckpointError where there is no such folder and no download.
    """
    if not isinstance(path_or_repo_id, (str, os.PathLike)):
        found = type(path_or_repo_id).__name__
        raise TypeError(f"the folder of an adapter must be a path or a repository id, got {found}")
    wanted = f"give the folder of an adapter, which holds {CONFIG} and {TENSORS}"
    if not os.fspath(path_or_repo_id):  # as a path, this would be the current directory
        raise CheckpointError(f"the folder is an empty string: {wanted}")
    if os.path.isfile(path_of(path_or_repo_id)):  # no error for names that no file can have
        raise CheckpointError(f"{path_or_repo_id} is a file; {wanted}")
    return resolve_folder(path_or_repo_id)


def stamp_of(folder: Path) -> Stamp | None:
    """Returns what tells an adapter's files from those that are written later; None where one is missing."""
    place = adapter_place(folder)
    if place is None:
        return None
    try:
        found = [(place / name).stat() for name in (CONFIG, TENSORS)]
    except OSError:
        return None
    return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)
