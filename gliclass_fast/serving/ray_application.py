"""The application of Ray Serve: how many replicas, what each gets, and how fast a dead one is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gliclass_fast.serving.ray_environment import STAYS_REACHABLE
from gliclass_fast.serving.ray_replica import AppFactory, Replica, Surroundings, service_app
from gliclass_fast.serving.settings import Placement, ServeSettings

NAME = "gliclass"  # of the application, and of its one deployment
HEALTH_SECONDS = 1.0  # a replica that died is noticed within
ANSWER_HEALTH_SECONDS = 10.0  # a replica that answers no question for so long three times is replaced


def application_of(
    settings: ServeSettings,
    placement: Placement,
    build_app: AppFactory = service_app,
    surroundings: Surroundings | None = None,
    environment: Mapping[str, str] | None = None,
    surge: bool = False,
) -> Any:
    """Returns what `serve.run` takes.

    placement: with a number of GPUs. environment: of the replicas, where the cluster's is another.
    surge: whether new replicas start before old ones end, for which there must be cores and memory.
    """
    from ray import serve

    actor: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus}
    if environment:
        actor["runtime_env"] = {"env_vars": dict(environment)}
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        num_replicas=placement.replicas,
        ray_actor_options=actor,
        max_ongoing_requests=placement.ongoing_requests,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=STAYS_REACHABLE + settings.limits.seconds + 5,
        health_check_period_s=HEALTH_SECONDS,
        health_check_timeout_s=ANSWER_HEALTH_SECONDS,
        max_surge_percent=100 if surge else 0,
    )
    return deployment.bind(settings, build_app, surroundings)


def application(arguments: Mapping[str, Any]) -> Any:
    """Builds the application that a configuration of Ray Serve names as `import_path`, with its `args`.

    arguments: keys of `GLiClassServeConfig`. The node that builds it needs no GPU, even where replicas do.
    Raises ArgumentError as `GLiClassServeConfig.from_mapping`.
    """
    from gliclass_fast.serving.config import GLiClassServeConfig
    from gliclass_fast.serving.from_config import placement_of, settings_of

    config = GLiClassServeConfig.from_mapping(arguments)
    on_gpu = config.device.startswith("cuda")
    settings, placement = settings_of(config, on_gpu), placement_of(config, on_gpu)
    return application_of(with_threads(settings, placement), placement)


def with_threads(settings: ServeSettings, placement: Placement) -> ServeSettings:
    """Returns settings by which replicas on one machine do not fight for its cores."""
    if settings.threads is not None:
        return settings
    return replace(settings, threads=max(1, int(placement.cpus)))


def with_whole_paths(settings: ServeSettings) -> ServeSettings:
    """Returns settings whose folders have whole paths, as replicas have working folders of their own.

    Links stay: a redeployment follows one to where it points then.
    """

    def whole(model: str) -> str:
        return str(Path(model).absolute()) if Path(model).is_dir() else model

    return replace(
        settings, model=whole(settings.model),
        more_models={name: whole(model) for name, model in settings.more_models.items()},
        adapters={name: whole(adapter) for name, adapter in settings.adapters.items()},
    )  # fmt: skip
