"""Checkpoint folders: this module finds them, and reads their config.json and their tokenizer."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PretrainedConfig

from gliclass_fast.checkpoint.documents import MOST_JSON_BYTES, check_file, path_of, read_object
from gliclass_fast.checkpoint.errors import CheckpointError, MissingCheckpointError

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.txt", "vocab.json")
MOST_VOCABULARY_BYTES = 128 << 20  # the largest tokenizer.json in use has 35 MB
_OPTIONS = ("config.json", "tokenizer_config*.json", "special_tokens_map.json", "added_tokens.json")
# what transformers reads of a tokenizer's folder, and how large it may be
_TOKENIZER_FILES = {
    **dict.fromkeys((*_VOCABULARIES, "merges.txt"), MOST_VOCABULARY_BYTES),
    **dict.fromkeys((*_OPTIONS, "chat_template*"), MOST_JSON_BYTES),
}  # fmt: skip
# JSON in which every digit is 0 and what stands between values is a space
_DIGITS = bytes.maketrans(b"123456789:,[\n\r\t", b"0" * 9 + b" " * 6)
_LARGEST_VOCABULARY = 10**7  # none in use has so many tokens
_LONG_INTEGER = b" " + b"0" * 8
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_OURS = ("GLiClass", "gliznet")  # model types that transformers does not know


def resolve_folder(path_or_repo_id: str | Path, weights: bool = True, **hub: Any) -> Path:
    """Returns the local folder of a checkpoint: the path itself, or a download of the repository's files.

    weights: whether to download them too, or only what a tokenizer needs. hub: how to download
    (`HUB_OPTIONS`). Raises MissingCheckpointError where there is no such folder and no download, or no such
    name.
    """
    if unknown := set(hub) - set(HUB_OPTIONS):
        raise TypeError(f"unexpected arguments {sorted(unknown)}; of the Hub: {', '.join(HUB_OPTIONS)}")
    if not isinstance(path_or_repo_id, (str, PathLike)):
        given = type(path_or_repo_id).__name__
        raise TypeError(f"a checkpoint is named by a path or a repository id, not by {given}")
    if not fspath(path_or_repo_id):  # as a path, this would be the current directory
        raise MissingCheckpointError("the name of the checkpoint is empty: give a folder or a repository id")
    try:
        folder = path_of(path_or_repo_id)
        exists = folder.exists()
    except OSError as error:  # the name is too long
        raise MissingCheckpointError(
            f"{str(path_or_repo_id)[:200]} cannot be opened: {error.strerror}"
        ) from None
    if exists:
        if not folder.is_dir():
            raise MissingCheckpointError(
                f"{folder} is a file; give the folder that holds config.json and model.safetensors"
            )
        return folder.absolute()  # which stays what it is where a process changes its directory
    name = str(path_or_repo_id)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise MissingCheckpointError(
            f"{folder} does not exist, and {name!r} is not a repository id of the form owner/name or name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.model", "*.txt", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(name, allow_patterns=patterns, **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingCheckpointError(
            f"no folder named {name!r}, and the download of that repository failed: {reason}. Where a folder "
            "is meant, check how it is spelled"
        ) from None


def read_json(folder: Path) -> dict[str, Any]:
    """Returns the folder's config.json; raises CheckpointError where it is missing or is not an object."""
    return read_object(folder / "config.json")


def load_tokenizer(path_or_repo_id: str | Path, **options: Any) -> Any:
    """Loads the tokenizer of a folder or repository, as AutoTokenizer does, but runs no remote code.

    options: those of a download (`HUB_OPTIONS`), and those of AutoTokenizer.
    """
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    folder = resolve_folder(path_or_repo_id, weights=False, **hub)
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise MissingCheckpointError(f"{folder} holds no tokenizer: there is no tokenizer.json")
    for pattern, most_bytes in _TOKENIZER_FILES.items():
        for file in folder.glob(pattern):
            check_file(file, most_bytes)
    _check_long_ids(folder)
    if (folder / "config.json").exists() and read_json(folder).get("model_type") in _OURS:
        options["config"] = PretrainedConfig()  # an empty one selects the same class, without a warning
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
        used = tokenizer("a")["input_ids"]  # some options of the wrong type show only here
    except BaseException as error:  # of many types, and none says which file it is about
        _raise_interrupt(error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(_fault(folder, f"holds no tokenizer that can be loaded: {reason}")) from None
    # a template has ids of its own
    _check_vocabulary(folder, max([len(tokenizer) - 1, *tokenizer.get_vocab().values(), *used]))
    return tokenizer


def _fault(folder: Path, fault: str) -> str:
    """Returns the message for a tokenizer that cannot be loaded, which names the file that is to blame.

    It names the folder where every file is well formed: then they do not fit each other, or the call.
    """
    for pattern in _OPTIONS:
        for file in folder.glob(pattern):
            try:
                read_object(file)
            except CheckpointError:
                return unreadable(file, fault)
    vocabulary = next(file for pattern in _VOCABULARIES for file in folder.glob(pattern))
    if vocabulary.name != "tokenizer.json" or _read_tokenizer(vocabulary) is None:
        return unreadable(vocabulary, fault)
    return f"{folder} {fault}"


def _read_tokenizer(file: Path) -> Tokenizer | None:
    """Returns None where a tokenizer.json cannot be read."""
    try:
        return Tokenizer.from_file(str(file))
    except BaseException as error:
        _raise_interrupt(error)
        return None


def _raise_interrupt(error: BaseException) -> None:
    """Raises an error again that is no fault of a file; a panic of Rust is one, although no Exception."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _check_long_ids(folder: Path) -> None:
    """Raises CheckpointError for ids of eight digits: older versions of transformers take memory for all ids.

    The versions up to 5.17 take memory for every id up to the largest one.
    """
    file = folder / "tokenizer.json"
    if not file.exists() or _LONG_INTEGER not in file.read_bytes().translate(_DIGITS):
        return
    tokenizer = _read_tokenizer(file)
    last = 0 if tokenizer is None else max(tokenizer.get_vocab().values(), default=0)
    if last >= _LARGEST_VOCABULARY:
        raise CheckpointError(f"the ids of {file} go up to {last}, and no vocabulary has so many tokens")


def _check_vocabulary(folder: Path, last: int) -> None:
    """Raises CheckpointError where the folder's model has no embedding for the tokenizer's last id."""
    if not (folder / "config.json").exists():
        return
    raw = read_json(folder)
    backbone = raw.get("encoder_config") or raw.get("backbone_config")
    configs = [raw, backbone if isinstance(backbone, dict) else {}]
    sizes = [size for each in configs if isinstance(size := each.get("vocab_size"), int)]
    if not sizes:
        return
    if last >= max(sizes):
        raise CheckpointError(
            f"the tokenizer of {folder} does not belong to its model: its ids go up to {last}, but "
            f"vocab_size is {max(sizes)} in config.json"
        )


def unreadable(file: Path, reason: str) -> str:
    """Returns the message for a file that cannot be read, which says so where it is a Git LFS pointer."""
    with file.open("rb") as opened:
        if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return f"{file} is a Git LFS pointer, not the file itself: get it with `git lfs pull`"
    return f"{file} {reason}"
