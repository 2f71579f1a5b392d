"""What the keys of the reference's configuration mean here: a `GLiClassServeConfig` becomes our settings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.serving.config_keys import EFFECTS
from gliclass_fast.serving.settings import Limits, Placement, ServeSettings

# {key: the field of ours that it sets}
_OF_SETTINGS = {
    "model": "model", "device": "device", "dtype": "dtype", "quantization": "quantization",
    "max_model_len": "max_length", "max_batch_size": "batch_texts", "tokenizer_threads": "tokenizer_threads",
    "default_threshold": "threshold", "route_prefix": "route_prefix",
}  # fmt: skip
_OF_LIMITS = {"max_labels": "labels", "queue_capacity": "queue_texts", "request_timeout_s": "seconds"}
_OF_PLACEMENT = {
    "http_port": "port", "num_replicas": "replicas", "num_cpus_per_replica": "cpus",
    "num_gpus_per_replica": "gpus", "max_ongoing_requests": "ongoing_requests", "ray_address": "ray_address",
}  # fmt: skip


def changed_in(path: Path | None) -> set[str]:
    """Names the keys to which a YAML file of a configuration gives other values than their defaults."""
    if path is None:
        return set()
    import yaml

    given = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {key for key, value in given.items() if value != getattr(GLiClassServeConfig, key, None)}


def settings_of(
    config: GLiClassServeConfig, on_gpu: bool | None = None, keys: Collection[str] = EFFECTS
) -> ServeSettings:
    """Returns what a configuration says of a service, in our terms.

    on_gpu: whether it runs on a GPU; None: whether it would on this machine, or in a cluster whether it is
    asked to. keys: those that count; what the others would set has our defaults.
    """
    values = {
        **vars(config),
        "tokenizer_threads": config.tokenizer_threads or None,
        "max_labels": config.max_labels if config.max_labels > 0 else Limits().labels,
    }
    if "dtype" in keys and not _on_gpu(config, on_gpu):
        values["dtype"] = None  # 16 bit is for a GPU; a CPU computes in float32
    limits = Limits(**_fields(_OF_LIMITS, values, keys))
    return ServeSettings(**_fields(_OF_SETTINGS, values, keys), limits=limits)


def placement_of(
    config: GLiClassServeConfig, on_gpu: bool | None = None, keys: Collection[str] = EFFECTS
) -> Placement:
    """Returns what a configuration says of where a service runs, by the arguments of `settings_of`."""
    values = dict(vars(config))
    if "num_gpus_per_replica" in keys and not _on_gpu(config, on_gpu):
        values["num_gpus_per_replica"] = 0.0
    return Placement(**_fields(_OF_PLACEMENT, values, keys))


def placed_by(keys: Collection[str]) -> set[str]:
    """Returns the fields of a placement that keys set."""
    return {field for key, field in _OF_PLACEMENT.items() if key in keys}


def _fields(fields: Mapping[str, str], values: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    return {field: values[key] for key, field in fields.items() if key in keys}


def _on_gpu(config: GLiClassServeConfig, known: bool | None) -> bool:
    if known is not None:
        return known
    wanted = config.device.startswith("cuda")
    if not wanted or config.ray_address is not None:  # a cluster may have GPUs where this machine has none
        return wanted
    import torch  # here, as mistakes are found before

    return torch.cuda.is_available()
