"""The options of serve: what a person may set, and what is checked before a library is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Context, Option

from gliclass_fast.cli import console
from gliclass_fast.cli.options import folders_of, labels_in, opened

logger = logging.getLogger(__name__)

# options that serve itself does not have are keys of the reference's configuration
REFERENCE_OPTIONS = {"ignore_unknown_options": True}
# keys that do nothing without --ray
_FOR_RAY = ("num_cpus_per_replica", "num_gpus_per_replica", "max_ongoing_requests")


class LogLevel(str, Enum):
    """Names the levels of the log."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"
    critical = "critical"


def serve(
    context: Context,
    arguments: Annotated[
        list[str] | None,
        Argument(
            metavar="[MODEL]", help="Checkpoint folder or repository id.", show_default="the demo checkpoint"
        ),
    ] = None,
    more_models: Annotated[
        list[str] | None,
        Option("--add-model", help="NAME=FOLDER: one more model, for requests that name it."),
    ] = None,
    adapters: console.Adapters = None,
    host: Annotated[str | None, Option(help="Address to bind.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, Option(help="0: any free one.", show_default="8000")] = None,
    labels_file: Annotated[
        Path | None, Option(help="JSON file: labels for requests that name none, and for /predict.")
    ] = None,
    api_key_file: Annotated[
        Path | None, Option(help="File with a key per line; a request must have one of them.")
    ] = None,
    threshold: console.ConfiguredThreshold = None,
    batch_tokens: console.BatchTokens = None,
    max_queue_tokens: Annotated[
        int | None, Option(help="Tokens that may wait.", show_default="8 batches", min=1)
    ] = None,
    timeout: Annotated[
        float | None, Option(help="Seconds until a request has failed.", show_default="30")
    ] = None,
    max_length: console.ConfiguredMaxLength = None,
    device: console.Device = None,
    dtype: console.Dtype = None,
    quantization: console.Quantization = None,
    threads: console.Threads = None,
    ray: Annotated[bool, Option("--ray", help="Run on Ray Serve: replicas behind one address.")] = False,
    replicas: Annotated[
        int | None, Option(help="With --ray: copies of the model.", show_default="1", min=1)
    ] = None,
    config: Annotated[
        Path | None, Option(help="YAML file with the keys of gliclass's GLiClassServeConfig.")
    ] = None,
    log_level: Annotated[
        LogLevel, Option(help="From which level on the log has lines.", case_sensitive=False)
    ] = LogLevel.info,
) -> None:
    """Answer over HTTP: POST /classify, a page at /, and the routes of other services.

    Any other option, as --max-model-len 512, is a key of gliclass's GLiClassServeConfig.
    """
    console.let_threads_sleep()
    from gliclass_fast.serving.config import options_of
    from gliclass_fast.serving.from_config import changed_in, placed_by
    from gliclass_fast.serving.logs import use_json  # what follows may take seconds to import

    use_json(log_level.value)
    rest = list(arguments or ())
    model = rest.pop(0) if rest and not rest[0].startswith("--") else None
    names = [name for param in context.command.params for name in param.opts if name.startswith("--")]
    keys = options_of(rest, names)
    _check_once(
        keys, model=("MODEL", model), max_model_len=("--max-length", max_length), http_port=("--port", port),
        default_threshold=("--threshold", threshold), request_timeout_s=("--timeout", timeout),
        num_replicas=("--replicas", replicas),
    )  # fmt: skip
    own = {"model": model, "device": device}  # the meaning of other keys depends on the device
    keys |= {key: value for key, value in own.items() if value is not None}
    settings, placement = _configured(config, keys)
    settings = _set(
        settings, more_models=folders_of(more_models, "--add-model", "NAME"),
        adapters=folders_of(adapters) or None,
        dtype=dtype, quantization=quantization, threads=threads, batch_tokens=batch_tokens,
        max_length=max_length, threshold=threshold,
        labels=None if labels_file is None else labels_in(labels_file),
        api_keys=None if api_key_file is None else _keys(api_key_file),
        limits=_set(settings.limits, queue_tokens=max_queue_tokens, seconds=timeout),
    )  # fmt: skip
    placement = _set(placement, host=host, port=port, replicas=replicas)
    on_cpu = settings.device is not None and settings.device.startswith("cpu")
    if on_cpu and keys.get("num_gpus_per_replica"):
        raise ValueError(f"--num-gpus-per-replica goes with --device cuda, not with {settings.device}")
    if ray:
        from gliclass_fast.serving.ray_service import RayService, run_until_signal, shared_out

        if config is None:
            placement = shared_out(placement, settings, placed_by(keys))
        run_until_signal(RayService(settings, placement, log_level=log_level.value))
        return
    if placement.replicas > 1:
        raise ValueError("several replicas need --ray")
    if placement.ray_address is not None:
        raise ValueError("ray_address, the address of a cluster, needs --ray")
    in_file = changed_in(config)
    for key in (each for each in _FOR_RAY if each in keys or each in in_file):
        logger.warning("%s has no effect: it is for replicas, with --ray", key)
    from gliclass_fast.serving.server import run

    run(settings, placement)


def _configured(path: Path | None, given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the settings and the placement of a YAML file, and of keys that count more.

    With a file, the reference's defaults hold for the keys that nothing sets; without one, ours do. Raises
    ArgumentError as `GLiClassServeConfig` does, and ValueError for a file that cannot be read.
    """
    from gliclass_fast.serving.config import GLiClassServeConfig
    from gliclass_fast.serving.config_keys import EFFECTS
    from gliclass_fast.serving.from_config import placement_of, settings_of
    from gliclass_fast.serving.settings import ServeSettings

    if path is None:
        config = GLiClassServeConfig.from_mapping({"model": ServeSettings().model, **given})
    else:
        with opened("--config", path):
            config = GLiClassServeConfig.from_yaml(path, **given)
    console.check_device(config.device)  # before another one is taken instead
    keys = given if path is None else EFFECTS
    return settings_of(config, keys=keys), placement_of(config, keys=keys)


def _check_once(keys: Mapping[str, Any], **own: tuple[str, Any]) -> None:
    """Raises ValueError where a key and our own option for the same are both given.

    own: the name of such an option, and its value or None, by the key.
    """
    for key, (option, value) in own.items():
        if key in keys and value is not None:
            raise ValueError(f"{option} and --{key.replace('_', '-')} mean the same: give one of them")


def _set(settings: Any, **given: Any) -> Any:
    """Returns settings with those that are given."""
    return replace(settings, **{name: value for name, value in given.items() if value is not None})


def _keys(path: Path) -> tuple[str, ...]:
    with opened("--api-key-file", path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    keys = tuple(key for line in lines if (key := line.strip()))
    if not keys:
        raise ValueError(f"{path} holds no key: put one on a line")
    return keys
