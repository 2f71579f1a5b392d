"""Ray Serve that others use as well: what a service must not take from them, and what it waits for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event, Thread

from gliclass_fast.serving.listening import address_of
from gliclass_fast.serving.ray_application import NAME
from gliclass_fast.serving.settings import Placement

logger = logging.getLogger(__name__)

SECONDS_OF_SILENCE = 10.0


def placed_beside(placement: Placement, any_port: bool) -> Placement:
    """Returns a placement with the address at which Ray Serve listens: only its first start sets that.

    any_port: whether any port will do. Raises ValueError where it listens at another port or at none, and
    where our application is there already, as to deploy it would replace that of another service.
    """
    from ray import serve
    from ray.serve.context import _get_global_client  # Ray has no public name for the address

    if NAME in serve.status().applications:
        raise ValueError(
            f"this Ray has an application {NAME!r} already, of another service: end that first, or give each "
            f"service its own cluster. ray.serve.delete({NAME!r}) deletes one whose process was killed"
        )
    client = _get_global_client()
    there = client.http_config
    if client.get_serve_details()["proxy_location"] == "Disabled":  # and yet the configuration has a port
        raise ValueError(
            "Ray Serve runs there without a proxy, so nothing would answer over HTTP: start it with one, or "
            "give this service its own cluster"
        )
    at = address_of(there.host, there.port)
    if there.port != placement.port and not any_port:
        raise ValueError(
            f"Ray Serve listens at {at} already, and nowhere else: give --port {there.port} "
            "(http_port), or give this service its own cluster"
        )
    if there.host != placement.host:
        logger.warning("Ray Serve listens at %s already, and not at %s", at, placement.host)
    return replace(placement, host=there.host, port=there.port)


def told() -> list[str]:
    """Returns what Ray Serve tells of our application."""
    from ray import serve

    application = serve.status().applications.get(NAME)
    return [] if application is None else [each.message for each in application.deployments.values()]


@contextmanager
def telling_what_it_waits_for() -> Iterator[None]:
    """Logs within the block, again and again, what Ray Serve tells: it waits for long without a word."""
    ended = Event()

    def work() -> None:
        while not ended.wait(SECONDS_OF_SILENCE):
            with suppress(Exception):  # Ray raises all kinds; the block itself fails where Ray has gone
                reason = "; ".join(message.splitlines()[0] for message in told() if message)
                logger.info("waiting", extra={"reason": reason or "replicas start"})

    thread = Thread(target=work, name="gliclass-waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()  # without Ray, to ask for the status would start a cluster
