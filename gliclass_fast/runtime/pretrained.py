"""Options of `from_pretrained`: what the engine takes of those that transformers knows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gliclass_fast.checkpoint.files import HUB_OPTIONS, read_json, resolve_folder
from gliclass_fast.config import STOCK_DEFAULTS, dtype_name
from gliclass_fast.runtime.dtype import supported_dtype

logger = logging.getLogger(__name__)

# These choose how transformers loads or computes, for which the engine has one way, without remote code; or
# they name an adapter, or who calls.
_WITHOUT_EFFECT = (
    "low_cpu_mem_usage", "trust_remote_code", "attn_implementation", "weights_only", "proxies",
    "disable_mmap", "adapter_name", "_from_auto", "_from_pipeline",
)  # fmt: skip
# transformers' own defaults of these are taken, and no other value
_DEFAULT_ALONE = (
    "quantization_config", "variant", "state_dict", "from_tf", "from_flax", "output_loading_info",
    "ignore_mismatched_sizes", "tp_plan", "max_memory", "offload_folder", "key_mapping", "adapter_kwargs",
    "gguf_file", "generation_config", "use_kernels", "kernel_config", "allow_all_kernels", "fusion_config",
    "device_mesh", "tp_size", "distributed_config", "experts_implementation", "offload_buffers",
    "offload_state_dict", "tqdm_class", "mirror", "_commit_hash", "_fast_init",
)  # fmt: skip
LOCATION_OPTIONS = (*HUB_OPTIONS, "subfolder")  # the options that say where a checkpoint is
_TAKEN = (*LOCATION_OPTIONS, "config", "device_map", "use_safetensors", *_WITHOUT_EFFECT)


class Pretrained(NamedTuple):
    """Says where a checkpoint is, what its configuration is, and which device its options name."""

    folder: Path
    raw: dict[str, Any]  # config.json, with what the options change of it
    device: Any


def find_pretrained(
    path_or_repo_id: str | Path, options: Mapping[str, Any], dtype: torch.dtype | str | None = None
) -> Pretrained:
    """Finds or downloads a checkpoint.

    Args:
        path_or_repo_id: a folder or a repository id.
        options: those of the Hub (`HUB_OPTIONS`), subfolder, config, device_map with one device, options of
            config.json, which replace what the file says, and options that have no effect here.
        dtype: what the caller asks for; the configuration says so, unless it is None or "auto".

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has a value that the engine does not have, or the checkpoint is not valid.
    """
    given = {name: value for name, value in options.items() if not _is_default(name, value, options)}
    if given.get("use_safetensors") is False:
        raise ValueError("use_safetensors=False is not supported: pickle files can run code")
    if "proxies" in given:
        logger.warning("proxies= has no effect: downloads follow the variables HTTP_PROXY and HTTPS_PROXY")
    hub = {name: given[name] for name in HUB_OPTIONS if name in given}
    folder = resolve_folder(path_or_repo_id, **hub) / given.get("subfolder", "")
    config = given.get("config")
    if config is None or isinstance(config, (str, Path)):
        raw = read_json(folder if config is None else resolve_folder(config, **hub))
    else:
        raw = dict(config) if isinstance(config, Mapping) else config.to_dict()
    changes = {name: value for name, value in given.items() if name in raw or name in STOCK_DEFAULTS}
    unknown = set(options) - set(changes) - set(STOCK_DEFAULTS) - set(_TAKEN)
    if unknown := unknown - {name for name in _DEFAULT_ALONE if name not in given}:
        raise TypeError(
            f"unexpected arguments {sorted(unknown)}; supported: {', '.join(_TAKEN)}, options of "
            "config.json, and those that from_pretrained describes"
        )
    if dtype is not None and dtype != "auto":
        changes["dtype"] = dtype_name(supported_dtype(dtype))
    name = {"_name_or_path": str(path_or_repo_id)}  # transformers shows it as `config.name_or_path`
    return Pretrained(folder, raw | changes | name, _one_device(given.get("device_map")))


def _is_default(name: str, value: Any, options: Mapping[str, Any]) -> bool:
    """Tells whether an option says nothing, or nothing but the others.

    `AutoModel` passes on empty dicts, and `adapter_kwargs` that repeat the model's own revision and token.
    """
    if name == "adapter_kwargs" and isinstance(value, Mapping):
        return all(each is None or each == options.get(key) for key, each in value.items())
    empty = isinstance(value, (Mapping, list, tuple, set)) and not value
    taken = name in _DEFAULT_ALONE or name in _TAKEN
    return value is None or (empty and taken) or (value is False and name in _DEFAULT_ALONE)


def _one_device(device_map: Any) -> Any:
    """Returns the device of a map that names one; None for "auto" and its kin, which is the default."""
    if isinstance(device_map, Mapping):
        devices = set(device_map.values())
        if len(devices) != 1:
            raise ValueError(f"device_map={dict(device_map)!r}: the engine runs a model on one device")
        [device_map] = devices
    return None if device_map in ("auto", "balanced", "balanced_low_0", "sequential") else device_map
