"""Ray Serve: the app of a service as several replicas behind one address, on this machine or on a cluster."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import FrameType, TracebackType
from typing import Any

from gliclass_fast.serving.listening import address_of, check_free
from gliclass_fast.serving.ray_application import NAME, application_of, with_threads, with_whole_paths
from gliclass_fast.serving.ray_drain import drain_all
from gliclass_fast.serving.ray_environment import FAST_AND_SAFE, free_port, local_environment
from gliclass_fast.serving.ray_logs import ReplicaLines
from gliclass_fast.serving.ray_replica import AppFactory, Logs, Surroundings, service_app
from gliclass_fast.serving.ray_sharing import (
    refuse_second,
    telling_what_it_waits_for,
    told,
    wait_until_answered,
)
from gliclass_fast.serving.settings import Placement, ServeSettings

logger = logging.getLogger(__name__)

# once all that waited is answered: a load balancer has so long to learn from status 503 that this is the end
LAST_SECONDS = 2
RAY_LOGS = {"encoding": "JSON", "enable_access_log": False}  # a request is one line of our own log


class NoReplica(ValueError):
    """Says why no copy of a model could start: mostly for a mistake in what it is given."""


class RayService:
    """Runs a service on Ray Serve, and stops it.

    Without an address of a cluster it starts one on this machine, with Ray's token authentication, and ends
    it in `stop`. On a cluster that runs already only the application is added, and taken away; Ray Serve is
    started there where it does not run, and stays.
    """

    def __init__(
        self,
        settings: ServeSettings,
        placement: Placement,
        build_app: AppFactory = service_app,
        log_level: str | None = None,
    ) -> None:
        """Takes the settings; nothing starts yet.

        build_app: makes the app of a replica, and must be importable there by its name. log_level: from which
        level replicas log as JSON to this process's standard error; None leaves logging to Ray.
        """
        if placement.port == 0:
            placement = replace(placement, port=free_port())
        self.settings, self.placement = with_whole_paths(with_threads(settings, placement)), placement
        self._build_app, self._log_level = build_app, log_level
        self._clean_up = ExitStack()
        self._local = True  # whether the cluster is this object's own
        self._folder: Path | None = None  # of this machine, for sockets
        self._logs: Logs | None = None
        self._environment: dict[str, str] = {}
        self.handle: Any = None  # of Ray, to call `Replica`'s methods

    @property
    def address(self) -> str:
        """Returns where the service answers."""
        return address_of(self.placement.host, self.placement.port)

    def start(self) -> None:
        """Starts Ray where it does not run, and returns once every replica answers.

        Raises OSError where the address is taken or no cluster answers or starts; ValueError for a host that
        Ray has no use for, for replicas for which this machine has no room, and on a cluster that has such an
        application already or listens elsewhere; NoReplica where a replica cannot start; and
        ImportError without the extra `ray`.
        """
        if ":" in self.placement.host:
            raise ValueError(
                f"--host {self.placement.host}: Ray Serve listens at addresses of IPv4; one process, without "
                "--ray, listens at those of IPv6 too"
            )
        import ray

        self._local = self.placement.ray_address is None and not ray.is_initialized()
        if self._local:
            check_free(self.placement.host, self.placement.port)
            if self.placement.cpus > (cores := _cores()):  # Ray would start a process for each
                raise ValueError(f"a replica needs {self.placement.cpus:g} CPUs: this machine has {cores}")
        try:
            self._start_ray()
            self._check_room()
            logger.info("starting", extra={"replicas": self.placement.replicas})
            self._deploy()
            wait_until_answered(self.placement)
        except BaseException:
            self.stop()
            raise

    def redeploy(self) -> None:
        """Replaces the replicas by new ones, which load the model anew; no request is lost."""
        self._deploy()

    def drain(self) -> None:
        """Takes no new requests, which get status 503, and returns when all that waited is answered.

        On a cluster that runs already it does nothing: replicas answer what waits when they stop.
        """
        if self._folder is not None:
            drain_all(self._folder, self.settings.limits.seconds + 1)

    def refuse_for(self, seconds: float) -> None:
        """Waits until clients that still come have had status 503 for a while, where `drain` has drained.

        Ray's proxy takes their connections, and a client that it leaves without an answer cannot tell whether
        to ask again.
        """
        if self._folder is not None:
            time.sleep(seconds)

    def stop(self) -> None:
        """Ends the replicas, which answer what they have; ends the cluster too where `start` started it."""
        self._clean_up.close()

    def _start_ray(self) -> None:
        import ray

        clean_up, logs, lines = self._clean_up, self._log_level, None
        options: dict[str, Any] = {}
        if self._local:
            self._folder = clean_up.enter_context(local_environment(self.placement.host))
            if logs is not None:
                lines = ReplicaLines(self._folder)
                clean_up.callback(lines.close)
            replicas = 2 * self.placement.replicas  # a new one starts before an old one ends
            options = {
                "num_cpus": math.ceil(replicas * self.placement.cpus) + 1,
                "include_dashboard": False, "configure_logging": logs is None,
            }  # fmt: skip
        if logs is not None:
            self._logs = Logs(logs, None if lines is None else lines.path)
            _log_through_root(logs)
        if not ray.is_initialized():
            from gliclass_fast.serving.ray_cluster import connect  # it imports Ray

            clean_up.callback(ray.shutdown)  # before, as a signal may end the start
            with _handlers_kept():
                connect(self.placement.ray_address, **options, log_to_driver=logs is None)
        from ray import serve

        if logs is not None:
            _log_through_root(logs)
        # a cluster that runs already has another environment, so it goes with the processes of Ray Serve
        self._environment = {} if self._local or serve.status().proxies else FAST_AND_SAFE
        controller = {"runtime_env": {"env_vars": self._environment}} if self._environment else None
        serve.start(
            http_options={"host": self.placement.host, "port": self.placement.port},
            logging_config=RAY_LOGS,
            controller_options=controller,
        )
        refuse_second()
        clean_up.callback(self._end_serve)

    def _end_serve(self) -> None:
        import ray
        from ray import serve

        if not ray.is_initialized():  # who ended it ended this, too; Ray Serve would start it again
            return
        if self._local:
            serve.shutdown()
        else:
            serve.delete(NAME)

    def _check_room(self) -> None:
        """Refuses replicas for which our own cluster has no room, as Ray would wait for it without an end."""
        from gliclass_fast.serving.ray_cluster import lacking

        count, gpus = self.placement.replicas, _gpus(self.settings, self.placement)
        lack = lacking(f"{count} replicas need", count * self.placement.cpus, count * gpus)
        if lack and self._local:
            raise ValueError(lack)
        if lack:
            logger.warning("%s; those that it has no room for start when it grows", lack)

    def _deploy(self) -> None:
        from ray import serve

        placement = replace(self.placement, gpus=_gpus(self.settings, self.placement))
        application = application_of(
            self.settings, placement, self._build_app, Surroundings(self._logs, self._folder),
            self._environment, surge=self._local and not placement.gpus,
        )  # fmt: skip
        try:
            with telling_what_it_waits_for():
                self.handle = serve.run(application, name=NAME, route_prefix="/", logging_config=RAY_LOGS)
        except (RuntimeError, serve.exceptions.RayServeException) as error:
            raise NoReplica(f"no replica could start: {_reason(error)}") from error

    def __enter__(self) -> RayService:
        """Starts the service."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        """Stops the service."""
        self.stop()


def shared_out(placement: Placement, settings: ServeSettings, given: Collection[str] = ()) -> Placement:
    """Returns a placement whose replicas share out the cores of this machine, each with a queue of its own.

    Ray sends a replica what its queue and a batch hold, so that the queue says what is too much. given: the
    fields that stay as they are.
    """
    shares: dict[str, Any] = {
        "cpus": float(max(1, _cores() // placement.replicas)),
        "ongoing_requests": settings.limits.queue_texts + settings.batch_texts,
    }
    return replace(placement, **{name: share for name, share in shares.items() if name not in given})


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_until_signal(service: RayService) -> None:
    """Serves until SIGTERM or SIGINT, and then answers what waits; SIGHUP replaces the replicas one by one.

    Raises what `RayService.start` raises, and SystemExit for a signal before the start or after the first.
    """
    signals: SimpleQueue[int] = SimpleQueue()
    _at_signals(_end)
    try:
        service.start()
        _at_signals(lambda number, frame: signals.put(number), signal.SIGHUP)  # instead of Ray's
        logger.info("ready", extra={"address": service.address, "replicas": service.placement.replicas})
        while (number := signals.get()) == signal.SIGHUP:
            logger.info("redeploying")
            service.redeploy()
            logger.info("redeployed")
        _at_signals(_end)
        logger.info("draining", extra={"signal": number})
        service.drain()
        service.refuse_for(LAST_SECONDS)
    finally:
        service.stop()


def _at_signals(handler: Callable[[int, FrameType | None], None], *others: signal.Signals) -> None:
    for each in (signal.SIGTERM, signal.SIGINT, *others):
        signal.signal(each, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Sets the handlers of signals anew that a program had before the block.

    `ray.init` puts its own in their place, also below Python, where one ends the process without a clean-up.
    """
    kept = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # no other thread may set them
            for each, handler in kept.items():
                if callable(handler):  # without one of the program's, Ray's stays
                    signal.signal(each, handler)


def _reason(error: Exception) -> str:
    """Returns in a line why a replica did not start: Ray's error does not say it, but its status may."""
    lines = [line for line in "\n".join((str(error), *told())).splitlines() if line.strip()]
    # a traceback is indented, except for its last line
    outer = (line.strip() for line in reversed(lines) if not line.startswith((" ", "\x1b")))
    return next(outer, type(error).__name__)


def _gpus(settings: ServeSettings, placement: Placement) -> float:
    if placement.gpus is not None:
        return placement.gpus
    import ray

    wanted = settings.device is None or settings.device.startswith("cuda")
    return 1.0 if wanted and ray.cluster_resources().get("GPU") else 0.0


def _log_through_root(level: str) -> None:
    """Makes Ray log in this process as everything else does, and only what is wrong.

    Ray sets up its loggers at more than one import.
    """
    logging.setLogRecordFactory(logging.LogRecord)  # Ray's adds a time of its own to every line
    for name in ("ray", "ray.serve"):
        ray_logger = logging.getLogger(name)
        ray_logger.handlers.clear()
        ray_logger.propagate = True
        ray_logger.setLevel("DEBUG" if level.upper() == "DEBUG" else "WARNING")
