"""Ray Serve that others use as well: what a service must not take from them, and what it waits for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from threading import Event, Thread

from gliclass_fast.serving.listening import address_of
from gliclass_fast.serving.ray_application import NAME
from gliclass_fast.serving.settings import Placement

logger = logging.getLogger(__name__)

SECONDS_OF_SILENCE = 10.0
SECONDS_TO_LISTEN = 30.0  # after the replicas run
EVERYWHERE = "0.0.0.0"


def refuse_second() -> None:
    """Raises ValueError where our application is there already: to deploy would replace another service."""
    from ray import serve

    if NAME in serve.status().applications:
        raise ValueError(
            f"this Ray has an application {NAME!r} already, of another service: end that first, or give each "
            f"service its own cluster. ray.serve.delete({NAME!r}) deletes one whose process was killed"
        )


def wait_until_answered(placement: Placement) -> None:
    """Returns once the service answers at its address.

    Raises ValueError where it does not: the first start of Ray Serve sets where it listens, and whether.
    """
    ends, at = time.monotonic() + SECONDS_TO_LISTEN, address_of(placement.host, placement.port)
    while not _answers("127.0.0.1" if placement.host == EVERYWHERE else placement.host, placement.port):
        if time.monotonic() > ends:
            raise ValueError(
                f"the replicas run, but Ray Serve does not answer at {at}: its first start set where it "
                "listens. Give that as --host and --port (http_port), or give this service its own cluster"
            )
        time.sleep(0.1)


def _answers(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=SECONDS_TO_LISTEN)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


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
