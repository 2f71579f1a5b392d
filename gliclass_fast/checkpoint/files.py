"""Checkpoint folders: this module finds them, and reads their config.json and their tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PretrainedConfig

from gliclass_fast.checkpoint.errors import CheckpointError

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab.txt", "vocab.json")
_OURS = ("GLiClass", "gliznet")  # model types that transformers does not know


def resolve_folder(path_or_repo_id: str | Path, weights: bool = True, **hub: Any) -> Path:
    """Returns the local folder of a checkpoint: the path itself, or a download of the repository's files.

    weights: whether to download them too, or only what a tokenizer needs. hub: how to download
    (`HUB_OPTIONS`). Raises CheckpointError where there is no such folder and no download.
    """
    if unknown := set(hub) - set(HUB_OPTIONS):
        raise TypeError(f"unexpected arguments {sorted(unknown)}; of the Hub: {', '.join(HUB_OPTIONS)}")
    folder = Path(path_or_repo_id).expanduser()
    if folder.exists():
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is a file; give the folder that holds config.json and model.safetensors"
            )
        return folder
    name = str(path_or_repo_id)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{folder} does not exist, and {name!r} is not a repository id of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.model", "*.txt", *(["*.safetensors"] if weights else [])]
        return Path(snapshot_download(name, allow_patterns=patterns, **hub))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"no folder named {name!r}, and the download of that repository failed: {reason}"
        ) from None


def read_json(folder: Path) -> dict[str, Any]:
    """Returns the folder's config.json; raises CheckpointError where it is missing or is not an object."""
    file = folder / "config.json"
    if not file.exists():
        raise CheckpointError(f"{file} does not exist")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file} holds a {type(raw).__name__}, not an object of options")
    return raw


def load_tokenizer(path_or_repo_id: str | Path, **options: Any) -> Any:
    """Loads the tokenizer of a folder or repository, as AutoTokenizer does, but runs no remote code.

    options: those of a download (`HUB_OPTIONS`), and those of AutoTokenizer.
    """
    hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
    folder = resolve_folder(path_or_repo_id, weights=False, **hub)
    if not any(any(folder.glob(pattern)) for pattern in _VOCABULARIES):
        raise CheckpointError(f"{folder} holds no tokenizer: there is no tokenizer.json")
    if (folder / "config.json").exists() and read_json(folder).get("model_type") in _OURS:
        options["config"] = PretrainedConfig()  # an empty one selects the same class, without a warning
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
