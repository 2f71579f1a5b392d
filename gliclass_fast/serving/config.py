"""`GLiClassServeConfig`: the configuration of the reference's service, key by key, from YAML and elsewhere.

Every key is read and checked. Some have no effect here, because what they control does not exist: a warning
names those that were set, and says why. The tables of `config_keys` say what the others do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from gliclass_fast.serving.config_keys import FORGOTTEN, RENAMED, SHORT, WITHOUT_EFFECT
from gliclass_fast.serving.config_values import checked, from_text, unknown
from gliclass_fast.text.errors import WrongType, WrongValue

logger = logging.getLogger(__name__)

_SIZES = [1, 2, 4, 8, 16, 32]


@dataclass
class GLiClassServeConfig:
    """Holds the settings of a service under the reference's names, with its defaults.

    Args:
        model: a checkpoint, as a folder or a repository id; the others have defaults, see `docs/serving.md`.

    Raises ArgumentError for a value of a wrong type or outside its bounds, and UnsupportedConfigError where
    adapters are asked for.
    """

    model: str
    device: str = "cuda"
    dtype: str = "bfloat16"
    quantization: str | None = None
    max_model_len: int = 2048
    max_labels: int = -1
    max_labels_alloc: str | int = "dynamic"
    default_threshold: float = 0.5
    num_replicas: int = 1
    num_gpus_per_replica: float = 1.0
    num_cpus_per_replica: float = 1.0
    max_batch_size: int = 32
    batch_wait_timeout_ms: float = 20.0
    request_timeout_s: float = 30.0
    max_ongoing_requests: int = 256
    queue_capacity: int = 4096
    route_prefix: str = "/gliclass"
    tokenizer_threads: int = 4
    enable_compilation: bool = False
    calibrate_on_startup: bool = False
    precompile_on_startup: bool = False
    use_memory_aware_batching: bool = False
    precompiled_batch_sizes: list[int] = field(default_factory=lambda: list(_SIZES))
    target_memory_fraction: float = 0.8
    memory_overhead_factor: float = 1.3
    calibration_min_seq_len: int = 64
    calibration_min_batch_size: int = 1
    calibration_max_batch_size: int = 64
    calibration_probe_batch_size: int = 2
    warmup_iterations: int = 3
    http_port: int = 8000
    ray_address: str | None = None
    enable_polylora: bool = False
    polylora_adapter_weight_modules: list[str] | None = None
    polylora_max_rank: int = 16
    polylora_max_gpu_adapters: int = 8
    polylora_max_cpu_adapters: int | None = 128
    polylora_disk_cache_dir: str | None = None
    polylora_max_disk_adapters: int | None = None
    polylora_base_adapter_id: str = "__base__"
    polylora_use_triton_kernels: bool = True
    polylora_adapter_id_pattern: str = r"^[A-Za-z0-9_.-]{1,128}$"

    def __post_init__(self) -> None:
        vars(self).update(_checked(asdict(self)))
        self.precompiled_batch_sizes = sorted({*self.precompiled_batch_sizes, self.max_batch_size})
        told = vars(self).setdefault("_told", set())
        for key, why in self.without_effect().items():
            if key not in told:
                logger.warning("%s has no effect: %s", key, why)
                told.add(key)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> GLiClassServeConfig:
        """Reads keys and values; older names of the adapters' keys are understood, as in the reference.

        Raises ArgumentError for a key that does not exist, for a missing model and for a wrong value.
        """
        if not isinstance(given, Mapping):
            raise WrongType(f"a configuration is a mapping of keys to values, not {type(given).__name__}")
        values = _checked(_by_newer_names(given))
        if "model" not in values:
            raise WrongValue("a configuration needs the key 'model', a folder or a repository id")
        return cls(**values)

    @classmethod
    def from_yaml(cls, config_path: str | Path, **instead: Any) -> GLiClassServeConfig:
        """Reads a YAML file; keyword arguments that are not None count instead of what it holds.

        Raises ArgumentError as `from_mapping`, and OSError for a file that cannot be read.
        """
        import yaml

        try:
            given = _parsed(Path(config_path).read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # the second of bytes, and of dates
            raise WrongValue(f"{config_path} is not valid YAML: {error}") from None
        if isinstance(given, Mapping):
            given = {**given, **{key: value for key, value in instead.items() if value is not None}}
        try:
            return cls.from_mapping(given)
        except (WrongType, WrongValue) as error:
            raise type(error)(f"{config_path}: {error}") from None

    def to_yaml(self, config_path: str | Path) -> None:
        """Writes every key to a YAML file, whose folder is made."""
        import yaml

        path = Path(config_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def update(self, **values: Any) -> GLiClassServeConfig:
        """Sets keys in place, except those given as None, and returns itself. Raises as `from_mapping`."""
        return self._set({key: value for key, value in values.items() if value is not None})

    def override(self, arguments: Sequence[str]) -> GLiClassServeConfig:
        """Sets keys in place as a command line writes them, and returns itself; see `options_of`."""
        return self._set(options_of(arguments))

    def _set(self, values: Mapping[str, Any]) -> GLiClassServeConfig:
        vars(self).update(_checked(values))
        self.__post_init__()
        return self

    def to_env_vars(self) -> dict[str, str]:
        """Returns the environment variables that the tokenizer reads before the model is loaded."""
        return {"TOKENIZERS_PARALLELISM": "true"} if self.tokenizer_threads > 0 else {}

    def without_effect(self) -> dict[str, str]:
        """Returns the keys that differ from their defaults and have no effect here, with the reason."""
        usual = {each.name: each.default for each in fields(self)}
        usual["precompiled_batch_sizes"] = sorted({*_SIZES, self.max_batch_size})
        return {key: why for key, why in WITHOUT_EFFECT.items() if getattr(self, key) != usual[key]}


def _parsed(text: str) -> Any:
    """Reads YAML. Raises ValueError where a key stands twice in a mapping, as one value would be lost."""
    import yaml

    class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]  # before merged ones join them
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise ValueError(f"the key {twice[0]!r} stands there twice")
            return super().construct_mapping(node, deep)

    return yaml.load(text, UniqueKeys)


def options_of(arguments: Sequence[str], own: Iterable[str] = ()) -> dict[str, Any]:
    """Reads keys and values as a command line writes them.

    Args:
        arguments: "--max-batch-size", "8" or "--max-batch-size=8"; a key that is a bool needs no value, and
            has an opposite, "--no-...". "--port" stands for "--http-port". Lists are separated by commas.
        own: other options of the command, as "--host", one of which may be meant by what is no key.

    Raises ArgumentError for what is no key, or no value of it.
    """
    types, values, rest = _types(), {}, list(arguments)
    switch = ""  # the option before, where it takes no value
    while rest:
        option, given, text = rest.pop(0).partition("=")
        if not option.startswith("--"):
            if switch:
                raise WrongValue(f"{switch} takes no value, so {option!r} is one too many")
            raise WrongValue(f"an option is expected, as --max-batch-size 8, not {option!r}")
        name = option[2:].replace("-", "_")
        key, switch = SHORT.get(name, name), ""
        if key.startswith("no_") and types.get(key[3:]) is bool and not given:
            values[key[3:]], switch = False, option
            continue
        if key not in types:
            keys = (f"--{known.replace('_', '-')}" for known in (*types, *SHORT))
            raise unknown(option, [*keys, *own], "option")
        if types[key] is bool and not given:
            values[key], switch = True, option
            continue
        if not given and not rest:
            raise WrongValue(f"{option} needs a value")
        values[key] = from_text(key, text if given else rest.pop(0), types[key])
    return values


@cache
def _types() -> dict[str, Any]:
    return get_type_hints(GLiClassServeConfig)


def _checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values of keys that exist, each of its type; a dtype may have capitals, as in the reference."""
    for key in values:
        if key not in _types():
            raise unknown(str(key), _types())
    if isinstance(dtype := values.get("dtype"), str):
        values = {**values, "dtype": dtype.lower()}
    found = {key: checked(key, value, _types()[key]) for key, value in values.items()}
    if found.get("enable_polylora"):
        from gliclass_fast.config import UnsupportedConfigError  # imports transformers

        raise UnsupportedConfigError(
            "enable_polylora=True is not supported: the engine has adapters of its own, which are given as "
            "--adapter ID=FOLDER"
        )
    return found


def _by_newer_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """Renames the keys of adapters that once began with `mlora_`; a newer name that is there too counts."""
    values = dict(given)
    for older in given:
        newer = RENAMED.get(older, re.sub("^mlora_", "polylora_", str(older)))
        newer = RENAMED.get(newer, newer)
        if newer != older:
            values.setdefault(newer, values.pop(older))
    return {key: value for key, value in values.items() if key not in FORGOTTEN}
