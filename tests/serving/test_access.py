"""What stands before the app: the id of a request, its route in the counts, and a full queue."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from gliclass_fast.serving.access import Access
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.errors import QueueFull
from gliclass_fast.serving.metrics import Metrics
from gliclass_fast.serving.settings import ServeSettings


def asked(
    app: Any, path: str, headers: dict[bytes, bytes], method: str = "GET", body: list[bytes] | None = None
) -> dict[bytes, bytes]:
    """Returns the headers of an answer, as bytes, which a client may decode in one way or another.

    body: its parts, from which those that are read are taken.
    """
    found: list[Any] = []
    left = [b""] if body is None else body

    async def receive() -> Any:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        found.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers.items())}
    asyncio.run(app({**scope, "query_string": b"", "root_path": ""}, receive, send))
    return dict(found[0]["headers"])


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """Answers, without a route."""
    await send({"type": "http.response.start", "status": 204, "headers": []})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("é-火".encode(), "é-火"),
        ("é".encode() * 200, "é" * 128),
        (b"a" * 127 + b" b", "a" * 127),
        (b"a b", "a b"),
        (b"", None),
        (b"  ", None),
        (b"\xe9", None),
        (b"a\tb", None),
        ("\u2028".encode(), None),
    ],
)
def test_a_request_has_one_id_in_its_answer_and_in_the_log(
    caplog: pytest.LogCaptureFixture, given: bytes, kept: str | None
) -> None:
    caplog.set_level("INFO", "gliclass_fast.serving.access")
    access = Access(nothing, Metrics(), (), 100, "/-/healthz", lambda: False)
    found = asked(access, "/health", {b"x-request-id": given})[b"x-request-id"].decode()
    [line] = [each for each in caplog.records if each.getMessage() == "request"]
    assert vars(line)["request_id"] == found
    assert found == kept if kept is not None else re.fullmatch("[0-9a-f]{32}", found)


def test_a_request_that_is_refused_before_its_route_counts_as_one_of_it() -> None:
    app, metrics = FastAPI(), Metrics()
    app.add_middleware(
        Access, metrics=metrics, api_keys=("key",), body_bytes=9, probe="/p", draining=lambda: False
    )

    @app.get("/classify/{id}")
    @app.get("/")
    async def page() -> None:
        """Says nothing."""

    @app.post("/")
    async def post() -> None:
        """Says nothing."""

    long = {b"content-length": b"10", b"x-api-key": b"key"}
    for path, method, headers in (
        ("/", "POST", {}),
        ("/", "POST", long),
        ("/classify/7", "GET", {}),
        ("/classify/8", "PUT", {}),
        ("/other", "GET", {}),
    ):
        asked(app, path, headers, method)
    found = re.findall(r"gliclass_(requests|rejected)_total\{(.*)\} (\d)\.0", metrics.exposition().decode())
    counted = [f"{what} {labels} {times}" for what, labels, times in found]
    assert sorted(counted) == [
        'rejected reason="too_large",route="/" 1',
        'rejected reason="unauthorized",route="/" 1',
        'rejected reason="unauthorized",route="/classify/{id}" 2',
        'rejected reason="unauthorized",route="none" 1',
        'requests route="/",status="401" 1',
        'requests route="/",status="413" 1',
        'requests route="/classify/{id}",status="401" 2',
        'requests route="none",status="401" 1',
    ]


def test_where_there_is_no_room_a_body_is_read_and_left_aside() -> None:
    def check_room() -> None:
        raise QueueFull("the queue is full", retry_after=7)

    access = Access(nothing, Metrics(), (), 9, "/p", lambda: False, {"/"}, check_room)
    whole, long, other = [b"1234", b"5678"], [b"1234", b"56789", b"0", b"more"], [b"1234", b"5678"]
    assert asked(access, "/", {}, "POST", whole)[b"retry-after"] == b"7" and whole == []
    assert asked(access, "/", {}, "POST", long)[b"retry-after"] == b"7" and long == [b"more"]
    assert b"retry-after" not in asked(access, "/", {}, "GET", other)
    assert b"retry-after" not in asked(access, "/other", {}, "POST", other) and len(other) == 2


def test_a_full_queue_is_the_answer_whatever_a_body_says() -> None:
    app = create_app(ServeSettings(device="cpu", api_keys=("key",)))

    def full() -> None:
        raise QueueFull("full", retry_after=7)

    app.state.service.batcher.check_room = full
    client, headers = TestClient(app), {"content-type": "application/json", "x-api-key": "key"}
    for path in ("/", "/classify", "/predict", "/rerank", "/gliclass", "/gliclass/"):
        found = client.post(path, content=b"no JSON", headers=headers)
        assert (found.status_code, found.headers["retry-after"]) == (429, "7")
    assert client.post("/classify", content=b"no JSON").status_code == 401
    assert client.post("/unknown", content=b"no JSON", headers=headers).status_code == 404
    assert client.get("/health").status_code == 200


def test_a_key_that_is_empty_would_let_everybody_in() -> None:
    with pytest.raises(ValueError, match="an API key is empty"):
        ServeSettings(api_keys=("secret", ""))
