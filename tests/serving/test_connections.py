"""Connections: heads without end, clients that leave or send half a request, and the end of the process."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from gliclass_fast.serving.access import CLIENT_LEFT, Access
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.metrics import Metrics
from gliclass_fast.serving.server import Server, config_of
from gliclass_fast.serving.settings import Placement, ServeSettings
from tests.serving.running import in_a_thread
from tests.serving.test_serve import lines_until, started

JSON = b"Content-Type: application/json"
HALF = b"POST /classify HTTP/1.1\r\nHost: x\r\n" + JSON + b"\r\nContent-Length: 100\r\n\r\n{"
BODY = {"texts": "a", "labels": ["b"]}
LONG = b"a" * 70_000


@contextmanager
def serving(last_seconds: int) -> Iterator[tuple[FastAPI, int]]:
    """Serves as the command does, in a thread, and gives the app and its port."""
    app = create_app(ServeSettings(device="cpu"))
    config = config_of(app, Placement(port=0))
    config.timeout_graceful_shutdown = last_seconds
    with in_a_thread(Server(config, app.state.service)) as port:
        try:
            yield app, port
        finally:
            app.state.service.draining = True


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(1) as (_, found):
        yield found


def sent(port: int, *parts: bytes) -> bytes:
    """Returns what the service answers to bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        found = b""
        try:
            for part in parts:
                client.sendall(part)
                time.sleep(0.05)
            while got := client.recv(65_536):
                found += got
        except ConnectionError:  # the service closed it, with bytes that it did not read
            pass
        return found


@pytest.mark.parametrize(
    "parts",
    [
        [b"X-A: b\r\n" * 9000 + b"\r\n"],
        [b"X-A: b\r\n" * 4500] * 2,
        [b"X-A: " + LONG + b"\r\n\r\n"],
        [b"X-A: ", *[LONG[:20_000]] * 4],
        [b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X-A: b\r\n" * 9000],
    ],
    ids=["many", "many without an end", "long", "long without an end", "trailers"],
)
def test_a_head_has_a_bound(port: int, parts: list[bytes]) -> None:
    answer = sent(port, b"POST /classify HTTP/1.1\r\nHost: x\r\n" + parts[0], *parts[1:])
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:200]
    assert json.loads(answer.rsplit(b"\r\n", 1)[1])["error_type"] == "too_large"


def test_a_first_line_has_a_bound_and_other_mistakes_stay_400(port: int) -> None:
    assert sent(port, b"GET /" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 431 ")
    for mistake in (
        b"no request\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\n\r\n",
    ):
        answer = sent(port, mistake)
        assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
        assert json.loads(answer.rsplit(b"\r\n", 1)[1])["error_type"] == "invalid"


BEFORE = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n"
BROKEN = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"


@pytest.mark.parametrize(
    ("mistake", "statuses"),
    [
        (b"no request\r\n\r\n", []),
        (b"GET / HTTP/1.1\r\nX-A: " + LONG + b"\r\n\r\n", []),
        (b"GET / HTTP/1.1\r\nX-A: " + LONG, []),
        (BROKEN, [b"400"]),
        (HALF.replace(b"100", b"1") + b"}}}}", [b"422"]),  # longer than its length
    ],
    ids=["no HTTP", "a long head", "a head without an end", "a broken body", "a long body"],
)
@pytest.mark.parametrize("whole", [1, 3])
def test_whole_requests_are_answered_before_what_is_none(
    port: int, mistake: bytes, statuses: list[bytes], whole: int
) -> None:
    """The first answer belongs to the first request, and what follows a mistake has none."""
    got = sent(port, BEFORE * whole + mistake + BEFORE, BEFORE)
    assert re.findall(rb"HTTP/1.1 (\d+) ", got) == [b"200"] * whole + statuses
    assert got.count(b"connection: close") == 1


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_a_request_that_asks_for_another_protocol_is_answered_as_any_other(port: int, protocol: str) -> None:
    """Java's client asks for HTTP/2 in this way, and curl with --http2."""
    body, chunked = json.dumps(BODY).encode(), b"transfer-encoding: chunked"

    def head(length: bytes, *more: bytes) -> bytes:
        asked = b"Upgrade: " + protocol.encode(), b"Connection: Upgrade, HTTP2-Settings", b"Host: x", length
        return b"\r\n".join((b"POST /classify HTTP/1.1", JSON, *asked, *more, b"", b""))

    whole, last = b"content-length: %d" % len(body), b"x-request-id: last\r\nexpect: 100-continue"
    pieces = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    get = b"GET /health HTTP/1.1\r\nConnection: "
    got = sent(
        port, head(whole), body, head(whole) + body[:5], body[5:], head(whole) + body,
        head(chunked) + pieces + head(whole, last)[:150], head(whole, last)[150:],
        body + get + b"Upgrade\r\nUpgrade: websocket\r\n\r\n" + get + b"close\r\n\r\n",
    )  # fmt: skip
    found = re.findall(rb"HTTP/1.1 (\d+)|x-request-id: (last)|{\"(results|status)\"", got)
    found = [b"".join(each) for each in found]
    answers = [b"200", b"results"] * 4 + [b"100", b"200", b"last", b"results"] + [b"200", b"status"] * 2
    assert found == answers, got


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("chunks", [1, 9])
def test_it_is_answered_too_where_the_connection_then_ends(port: int, version: str, chunks: int) -> None:
    """So asks nginx for a client that offers HTTP/2, where it is set up for WebSocket over HTTP/1.0."""
    body = json.dumps(BODY).encode()
    tokens = b"upgrade" if version == "1.0" else b"upgrade, close"
    lines = (
        b"POST /classify HTTP/" + version.encode(),
        b"Host: x",
        b"Connection: " + tokens,
        b"Upgrade: h2c",
        JSON,
    )
    request = b"\r\n".join((*lines, b"Content-Length: %d" % len(body), b"", body))
    size = -(-len(request) // chunks)
    answer = sent(port, *(request[at : at + size] for at in range(0, len(request), size)))
    assert answer.startswith(b"HTTP/1.1 200 ") and b'"results"' in answer, answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.long
def test_large_heads_and_bodies_below_the_bound_are_answered(port: int) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(3):  # over one connection, whose requests are counted one by one
            body = {**BODY, "texts": ["word " * 30_000] * 3}
            answer = client.post("/classify", json=body, headers={"x-a": "a" * 50_000})
            assert answer.status_code == 200, answer.text


def test_a_client_that_leaves_inside_its_body_is_499() -> None:
    with serving(1) as (app, port):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(HALF)
            time.sleep(0.1)
        end = time.monotonic() + 10
        while "_requests_total{" not in (metrics := app.state.service.metrics.exposition().decode()):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert 'gliclass_requests_total{route="/classify",status="499"} 1.0' in metrics
    assert 'gliclass_rejected_total{reason="client_left",route="/classify"} 1.0' in metrics


@pytest.mark.long
def test_an_idle_connection_is_not_closed_while_its_client_may_still_use_it(port: int) -> None:
    ask = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        for pause in (6, 0):  # uvicorn's own bound is 5 s
            client.sendall(ask)
            assert client.recv(9999).startswith(b"HTTP/1.1 200")
            time.sleep(pause)


@pytest.mark.long
def test_half_a_request_is_503_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with serving(1) as (app, port):
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        client.sendall(HALF)
        time.sleep(0.2)
    with client:
        answer = b"".join(iter(lambda: client.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in answer
    assert json.loads(answer.rsplit(b"\r\n", 1)[1])["error_type"] == "draining"
    assert not [each for each in caplog.records if each.exc_info]
    metrics = app.state.service.metrics.exposition().decode()
    assert 'gliclass_requests_total{route="/classify",status="503"} 1.0' in metrics
    assert 'gliclass_rejected_total{reason="draining",route="/classify"} 1.0' in metrics


def test_a_request_that_is_cancelled_while_the_service_goes_on_is_499() -> None:
    async def forever(*_: Any) -> None:
        await asyncio.sleep(60)

    async def cancelled(metrics: Metrics) -> None:
        access = Access(forever, metrics, (), 100, "/-/healthz", lambda: False)
        scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
        work = asyncio.ensure_future(access(scope, forever, forever))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    metrics = Metrics()
    asyncio.run(cancelled(metrics))
    assert f'{{route="none",status="{CLIENT_LEFT}"}} 1.0' in metrics.exposition().decode()


def busy(process: Any, requests: int) -> tuple[list[threading.Thread], list[Any]]:
    """Brings a service into the midst of a batch; returns who asks, and what they find."""
    address = lines_until(process, "ready")[-1]["address"]
    body = {"texts": ["some words here " * 100] * 25, "labels": ["a", "b", "c"]}
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(httpx2.post(address + "/classify", json=body, timeout=60))
        except httpx2.TransportError as error:
            found.append(error)

    asking = [threading.Thread(target=ask) for _ in range(requests)]
    for each in asking:
        each.start()
    time.sleep(0.5)
    return asking, found


@pytest.mark.slow
def test_a_terminal_that_closes_sends_two_signals_and_all_is_answered() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, which is inherited
    try:
        process = started("--threads", "1")
    finally:
        signal.signal(signal.SIGHUP, before)
    asking, found = busy(process, 2)
    process.send_signal(signal.SIGHUP)
    lines_until(process, "draining")
    process.send_signal(signal.SIGHUP)
    for each in asking:
        each.join()
    assert [each.status_code for each in found] == [200, 200]
    assert process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_process_at_once(number: signal.Signals) -> None:
    process = started("--threads", "1")
    asking, found = busy(process, 8)
    process.send_signal(number)
    lines_until(process, "draining")
    start = time.monotonic()
    process.send_signal(number)
    assert process.stderr is not None
    *others, last = [json.loads(line) for line in process.stderr]  # nothing but JSON
    assert (last["event"], last["signal"]) == ("ended at once", number)
    assert all(line["event"] == "request" and "traceback" not in line for line in others), others
    assert process.wait(20) == 128 + number and time.monotonic() - start < 5
    for each in asking:
        each.join()
    assert any(isinstance(each, httpx2.TransportError) for each in found), found
