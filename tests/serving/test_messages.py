"""What the service says of a body that it cannot read."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from gliclass_fast.serving.app import _validation_error, create_app
from gliclass_fast.serving.errors import MOST_NAMED
from gliclass_fast.serving.settings import ServeSettings

BODY = b'{"texts": "a", "labels": ["b"]}'
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = create_app(ServeSettings(device="cpu"))
    app.state.service.start()  # without a lifespan, as every request of a TestClient has its own event loop
    yield TestClient(app)
    asyncio.run(app.state.service.drain())


@pytest.mark.parametrize(
    ("body", "headers", "error_type", "message"),
    [
        (gzip.compress(BODY), {"content-encoding": "gzip"}, "invalid_json", "compressed bodies are not read"),
        (
            b"!packed",
            {"content-encoding": "br"},
            "invalid_json",
            "compressed bodies are not read; the body is",
        ),
        ('{"texts": "é"}'.encode("latin-1"), {}, "invalid_json", "the body is not UTF-8"),
        (b'{"texts": "a", "labels": ' + b"[" * 100_000, {}, "invalid_json", "the body is nested too deeply"),
        (b'{"threshold": ' + b"1" * 5000 + b"}", {}, "invalid_json", "Exceeds the limit (4300 digits)"),
        (b"", {}, "invalid", "the body is empty"),
        (b"{", {}, "invalid_json", "the body is not valid JSON at character 1"),
        (BODY, {"content-type": "application/jsonl"}, "invalid", "send the body as JSON, with Content-Type"),
    ],
    ids=["gzip", "br", "latin-1", "nested", "digits", "empty", "cut", "jsonl"],
)
def test_the_cause_is_named(
    client: TestClient, body: bytes, headers: dict[str, str], error_type: str, message: str
) -> None:
    answer = client.post("/classify", content=body, headers={**JSON, **headers})
    assert (answer.status_code, answer.json()["error_type"]) == (422, error_type)
    assert answer.json()["error"].startswith(message), answer.text
    assert "set_int_max_str_digits" not in answer.text


def test_other_types_of_json_are_read(client: TestClient) -> None:
    for kind in ("application/json; charset=utf-8", "Application/LD+JSON"):
        answer = client.post("/classify", content=BODY, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
    answer = client.post("/classify", content=BODY, headers={**JSON, "content-encoding": "identity"})
    assert answer.status_code == 200, answer.text


def test_an_address_is_as_it_is_written(client: TestClient) -> None:
    """No redirect: behind a proxy its address would be wrong."""
    answer = client.post("/classify/", content=BODY, headers=JSON, follow_redirects=False)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


def test_the_first_faults_are_looked_at_alone() -> None:
    class Faults(list[Any]):
        def __iter__(self) -> Any:
            yield from self[:MOST_NAMED]
            raise AssertionError("all faults are looked at")

    faults = Faults([{"type": "extra_forbidden", "loc": ("body", "a"), "msg": "No"}] * 9)
    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]})
    answer = asyncio.run(_validation_error(request, SimpleNamespace(errors=lambda: faults)))
    assert json.loads(bytes(answer.body)) == {"error": "a: No", "error_type": "invalid"}
