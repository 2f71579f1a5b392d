"""Where a job of Ray runs: a cluster of its own on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import ray

HELPERS = 2  # CPUs for the tasks beside the actors, which read, cut and write blocks
SECONDS_TO_ANSWER = 5


@dataclass(frozen=True, slots=True)
class Actors:
    """Says how many processes score, and what each of them has."""

    count: int
    cpus: int
    gpus: float


@dataclass(frozen=True, slots=True)
class Cluster:
    """Says which cluster a job runs on, and with what there; None is a default.

    address: of a running cluster, as "auto" or "host:6379"; None starts one for this job. count: actors;
    default: as many as there is room for. cpus: threads of an actor. gpus: GPUs of an actor, which may be a
    part of one; default: one where there are any.
    """

    address: str | None = None
    count: int | None = None
    cpus: int = 1
    gpus: float | None = None


@contextmanager
def connected(cluster: Cluster) -> Iterator[Actors]:
    """Connects this process with a cluster and yields the actors that a job may have there.

    Raises ValueError where no cluster answers or starts, or where it has no room for the actors.
    """
    if ray.is_initialized():  # by who calls this, and the cluster is theirs
        yield _actors(cluster)
        return
    from ray import data  # sets the handlers of its logger; a service has no use for it

    # what Ray's own processes log goes to files, and a count of users nowhere
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger(data.__name__).handlers:
        if isinstance(handler, logging.StreamHandler):  # the others write into files of the session
            handler.setLevel(logging.CRITICAL)
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    count = cluster.count or max(1, (os.cpu_count() or 1) // cluster.cpus)
    own = {"num_cpus": count * cluster.cpus + HELPERS, "include_dashboard": False}
    try:
        with _silent():
            connect(cluster.address, **({} if cluster.address else own), **quiet)
    except ConnectionError as error:
        raise ValueError(str(error)) from error
    try:
        yield _actors(cluster)
    finally:
        ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Leaves out what Ray's own library writes to standard error as it starts: how much its log has."""
    try:
        kept = os.dup(2)
    except OSError:  # it is closed
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def connect(address: str | None, **options: Any) -> None:
    """Calls `ray.init`, and leaves nothing behind where that fails.

    address: None starts a cluster of this machine. Raises ConnectionError where no cluster answers or starts.
    """
    try:
        knock(address or "local")
        ray.init(address or "local", **options)
    except Exception as error:  # Ray raises all kinds, as Exception itself where it takes too long to start
        ray.shutdown()
        raise ConnectionError(no_answer(address, error)) from error


def no_answer(address: str | None, error: Exception) -> str:
    """Returns the message for a cluster that does not answer, or for one of this machine that did not start.

    One that refuses is one that does not answer, and what Ray raises may not say why.
    """
    reason = " ".join(str(error).split())
    if address is None:
        home = os.path.expanduser("~")
        of_home = isinstance(error, OSError) and str(error.filename or "").startswith(home)
        remedy = ". Ray writes into ~/.ray: set HOME to a folder that can be written" if of_home else ""
        return f"Ray did not start: {reason}{remedy}"
    nobody = isinstance(error, (ConnectionRefusedError, socket.gaierror))
    token = "" if nobody else ". If it asks for a token, set RAY_AUTH_MODE=token"
    return f"no cluster of Ray answers at {address}: {reason}{token}"


def knock(address: str) -> None:
    """Raises OSError where nobody listens at a host and port, as Ray would wait for long without a word."""
    there = urlsplit(f"//{address.removeprefix('ray://')}")  # "auto" and "local" have no port
    if there.hostname and there.port:
        socket.create_connection((there.hostname, there.port), SECONDS_TO_ANSWER).close()


def _actors(cluster: Cluster) -> Actors:
    cpus, gpus = _there()
    each = cluster.gpus if cluster.gpus is not None else float(gpus > 0)
    room = int(cpus - HELPERS) // cluster.cpus
    if each:
        room = min(room, int(gpus / each))
    count = cluster.count or max(1, room)
    if lack := lacking(f"{count} actors need", count * cluster.cpus + HELPERS, count * each):
        raise ValueError(lack)
    return Actors(count, cluster.cpus, each)


def lacking(what: str, cpus: float, gpus: float) -> str | None:
    """Returns the message for a cluster that has not so many CPUs and GPUs, or None where it has.

    what: who needs them, as "2 actors need".
    """
    there = _there()
    if cpus <= there[0] and gpus <= there[1]:
        return None
    has, needs = (f"{each[0]:g} CPUs and {each[1]:g} GPUs" for each in (there, (cpus, gpus)))
    return f"the cluster has {has}: {what} {needs}"


def _there() -> tuple[float, float]:
    found = ray.cluster_resources()
    return found.get("CPU", 0), found.get("GPU", 0)
