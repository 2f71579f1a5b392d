"""Where a job of Ray runs: a cluster of its own on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import ray
import ray.data  # sets the handlers of its logger

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
    # what Ray's own processes log goes to files, and a count of users nowhere
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # the others write into files of the session
            handler.setLevel(logging.CRITICAL)
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    count = cluster.count or max(1, (os.cpu_count() or 1) // cluster.cpus)
    own = {"num_cpus": count * cluster.cpus + HELPERS, "include_dashboard": False}
    try:
        knock(cluster.address or "local")
        with _silent():
            ray.init(cluster.address or "local", **({} if cluster.address else own), **quiet)
    except Exception as error:  # Ray raises all kinds, as Exception itself where it takes too long to start
        raise ValueError(no_answer(cluster.address, error)) from error
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


def no_answer(address: str | None, error: Exception) -> str:
    """Returns the message for a cluster that does not answer, or for one of this machine that did not start.

    One that refuses is one that does not answer, and what Ray raises may not say why.
    """
    reason = " ".join(str(error).split())
    if address is None:
        return f"Ray did not start: {reason}"
    nobody = isinstance(error, (ConnectionRefusedError, socket.gaierror))
    token = "" if nobody else ". If it asks for a token, set RAY_AUTH_MODE=token"
    return f"no cluster of Ray answers at {address}: {reason}{token}"


def knock(address: str) -> None:
    """Raises OSError where nobody listens at a host and port, as Ray would wait for long without a word."""
    there = urlsplit(f"//{address.removeprefix('ray://')}")  # "auto" and "local" have no port
    if there.hostname and there.port:
        socket.create_connection((there.hostname, there.port), SECONDS_TO_ANSWER).close()


def _actors(cluster: Cluster) -> Actors:
    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), there.get("GPU", 0)
    each = cluster.gpus if cluster.gpus is not None else float(gpus > 0)
    room = (cpus - HELPERS) // cluster.cpus
    if each:
        room = min(room, int(gpus / each))
    if room < (cluster.count or 1):
        raise ValueError(
            f"the cluster has {cpus} CPUs and {gpus:g} GPUs: {cluster.count or 1} actors need "
            f"{(cluster.count or 1) * cluster.cpus + HELPERS} CPUs and {(cluster.count or 1) * each:g} GPUs"
        )
    return Actors(cluster.count or room, cluster.cpus, each)
