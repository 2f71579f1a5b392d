"""What stands before the app: the id of a request, and the route under which each is counted."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from gliclass_fast.serving.access import Access
from gliclass_fast.serving.metrics import Metrics


def asked(app: Any, path: str, headers: dict[bytes, bytes], method: str = "GET") -> dict[bytes, bytes]:
    """Returns the headers of an answer, as bytes, which a client may decode in one way or another."""
    found: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

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
