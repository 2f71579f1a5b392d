"""What the keys of the reference's configuration mean here: a `GLiClassServeConfig` becomes our settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gliclass_fast.serving.config import GLiClassServeConfig, values_of
from gliclass_fast.serving.settings import Limits, Placement, ServeSettings


def configured(
    path: Path | None, arguments: Sequence[str], model: str | None
) -> tuple[ServeSettings, Placement]:
    """Reads a YAML file and options of a command line, which count more; `model` counts most.

    Raises ArgumentError as `GLiClassServeConfig` does, and OSError for a file that cannot be read.
    """
    given = {**values_of(arguments), **({} if model is None else {"model": model})}
    if path is not None:
        config = GLiClassServeConfig.from_yaml(path, **given)
    else:
        config = GLiClassServeConfig.from_mapping({"model": ServeSettings().model, **given})
    return settings_of(config), placement_of(config)


def settings_of(config: GLiClassServeConfig, on_gpu: bool | None = None) -> ServeSettings:
    """Returns what a configuration says of a service, in our terms.

    on_gpu: whether it runs on a GPU; None: whether it would on this machine.
    """
    on_gpu = _on_gpu(config) if on_gpu is None else on_gpu
    return ServeSettings(
        model=config.model,
        device=config.device,
        dtype=config.dtype if on_gpu else None,  # 16 bit is for a GPU; a CPU computes in float32
        quantization=config.quantization,
        max_length=config.max_model_len,
        batch_texts=config.max_batch_size,
        tokenizer_threads=config.tokenizer_threads or None,
        threshold=config.default_threshold,
        route_prefix=config.route_prefix,
        limits=Limits(
            labels=config.max_labels if config.max_labels > 0 else Limits().labels,
            queue_texts=config.queue_capacity,
            seconds=config.request_timeout_s,
        ),
    )


def placement_of(config: GLiClassServeConfig, on_gpu: bool | None = None) -> Placement:
    """Returns what a configuration says of where a service runs; `on_gpu` is that of `settings_of`."""
    on_gpu = _on_gpu(config) if on_gpu is None else on_gpu
    return Placement(
        port=config.http_port,
        replicas=config.num_replicas,
        cpus=config.num_cpus_per_replica,
        gpus=config.num_gpus_per_replica if on_gpu else 0.0,
        ongoing_requests=config.max_ongoing_requests,
        ray_address=config.ray_address,
    )


def _on_gpu(config: GLiClassServeConfig) -> bool:
    from gliclass_fast.runtime.device import resolve_device  # imports torch: mistakes are found before

    return resolve_device(config.device, fall_back=True).type == "cuda"
