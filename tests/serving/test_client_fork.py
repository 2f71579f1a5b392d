"""Clients that a process shares with its fork, or that are copied: each has its own connection."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gliclass_fast.serving.client import AsyncGLiClassClient, GLiClassClient

FORK = multiprocessing.get_context("fork")


class Ports(BaseHTTPRequestHandler):
    """Answers with the port that a request came from, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = f'[{{"label": "{self.client_address[1]}", "score": 1.0}}]'.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Ports) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/gliclass"
        server.shutdown()


def in_a_fork(call: Callable[[], Any]) -> Any:
    """Returns what a call returns in a forked child, or the name of its error."""

    def run() -> None:
        try:
            theirs.send(call())
        except Exception as error:
            theirs.send(type(error).__name__)

    ours, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=run)
    child.start()
    try:
        assert ours.poll(20), "the child gave no answer"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def test_a_fork_has_its_own_connection(url: str) -> None:
    with GLiClassClient(url, timeout=5.0, retries=0) as client:

        def port() -> Any:
            return client.classify("one", ["a"])[0]["label"]

        def ports_and_end() -> list[Any]:
            found = [port(), port()]
            client.close()
            return found

        own = port()
        first, again = in_a_fork(ports_and_end)
        assert first == again != own
        assert port() == own, "the fork has not closed it"
    assert in_a_fork(port) == "RuntimeError", "it was closed before the fork"


def test_a_fork_of_an_asynchronous_client_has_its_own_connection(url: str) -> None:
    client = AsyncGLiClassClient(url, timeout=5.0, retries=0)

    async def port() -> Any:
        return (await client.classify("one", ["a"]))[0]["label"]

    async def before_and_after() -> tuple[Any, ...]:
        own = await port()
        theirs = in_a_fork(lambda: in_a_thread(port))
        found = own, theirs, await port()
        await client.close()
        return found

    own, theirs, later = asyncio.run(before_and_after())
    assert own == later != theirs and theirs.isdecimal()


@pytest.mark.parametrize(
    "copied", [lambda client: pickle.loads(pickle.dumps(client)), copy.deepcopy, copy.copy]
)
def test_a_copy_has_its_own_connection(url: str, copied: Callable[[Any], Any]) -> None:
    with GLiClassClient(url, timeout=5.0, retries=3, api_key="key") as client:
        own = client.classify("one", ["a"])
        with copied(client) as other:
            assert other.classify("one", ["a"]) != own and other.retries == client.retries
        assert client.classify("one", ["a"]) == own, "the copy has not closed it"
    asynchronous = copied(AsyncGLiClassClient(url, timeout=5.0))
    assert asyncio.run(asynchronous.classify("one", ["a"])) != own


def test_every_event_loop_has_its_own_connection(url: str) -> None:
    client = AsyncGLiClassClient(url, timeout=5.0, retries=0)

    async def port() -> Any:
        return (await client.classify("one", ["a"]))[0]["label"]

    async def both() -> tuple[Any, ...]:
        return await port(), await asyncio.to_thread(lambda: asyncio.run(port())), await port()

    first, other, again = asyncio.run(both())
    assert first == again != other
    assert asyncio.run(port()) not in (first, other), "the loops of these have ended"
    assert len(client._sessions) == 1
    asyncio.run(client.close())
    with pytest.raises(RuntimeError, match="the client is closed"):
        asyncio.run(port())


def in_a_thread(call: Callable[[], Any]) -> Any:
    """Returns what a coroutine gives in an event loop of its own, as the forked thread has one that runs."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(call())))
    thread.start()
    thread.join()
    return found[0]
