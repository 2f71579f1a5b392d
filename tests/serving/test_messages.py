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
from gliclass_fast.serving.faults import MOST_READ
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
            yield from self[:MOST_READ]
            raise AssertionError("all faults are looked at")

    found = Faults([{"type": "extra_forbidden", "loc": ("body", "a"), "msg": "No"}] * 99)
    request = Request({"type": "http", "headers": [(b"content-type", b"application/json")]})
    answer = asyncio.run(_validation_error(request, SimpleNamespace(errors=lambda: found)))
    assert json.loads(bytes(answer.body)) == {
        "error": "a is no field of this request",
        "error_type": "invalid",
    }


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("/classify", {"labels": ["a"]}, "texts is missing"),
        ("/classify", {"texts": "a", "tresh": 1}, "tresh is no field of this request"),
        (
            "/classify",
            {"texts": 3, "labels": 3},
            "texts must be a string or a list; labels must be a list or an",
        ),
        ("/classify", {"texts": ["a", 3]}, "texts[1] must be a string"),
        ("/classify", {"texts": "a", "threshold": 2}, "threshold must be at most 1"),
        ("/classify", {"texts": "a", "threshold": "0.5"}, "threshold must be a number, a list or an object"),
        (
            "/classify",
            {"texts": "a", "classification_type": ["multi", "x"]},
            "classification_type[1] must be 'mul",
        ),
        ("/classify", {"texts": "a", "return_info": "yes"}, "return_info must be true or false"),
        ("/classify", [1], "the body must be an object"),
        ("/gliclass", {"text": "a", "multi_label": 3}, "multi_label must be true or false or a list"),
        (
            "/",
            {"inputs": "a", "parameters": {"top_k": 0, "multi_label": 3}},
            "parameters.multi_label must be true",
        ),
        (
            "/",
            {"inputs": "a", "parameters": {"hypothesis_template": "a" * 9999}},
            "parameters.hypothesis_template m",
        ),
        ("/rerank", {"query": "a", "texts": 3}, "texts must be a list"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_fault_is_a_sentence(client: TestClient, route: str, body: Any, message: str) -> None:
    answer = client.post(route, json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (422, "invalid")
    assert answer.json()["error"].startswith(message), answer.text
    assert "Input should" not in answer.text
