"""The OpenAPI description: no request that can be made of it gets an error of the server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from tests.serving.test_app import LABELS, LIMITS, TEXTS, service

GENERATED = 25  # requests for every route, in the gate


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    yield from service(labels=LABELS, limits=LIMITS)


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/classify", {"texts": TEXTS, "return_info": True, "threshold": 0}),
        ("/classify", {"texts": TEXTS, "labels": {"tone": ["warm"]}, "return_hierarchical": True}),
        ("/gliclass", {"text": TEXTS[0], "labels": LABELS, "threshold": 0}),
        ("/gliclass", {"texts": TEXTS, "labels": LABELS, "threshold": 0}),
        ("/", {"inputs": TEXTS}),
        ("/predict", {"inputs": TEXTS[0]}),
        ("/rerank", {"query": LABELS[0], "texts": TEXTS}),
        ("/rerank", {"query": LABELS[0], "texts": TEXTS, "return_text": True}),
    ],
)
def test_answers_are_as_described(client: TestClient, route: str, body: dict[str, Any]) -> None:
    described = client.app.openapi()  # type: ignore[attr-defined]
    content = described["paths"][route]["post"]["responses"]["200"]["content"]
    schema = content["application/json"]["schema"]
    assert schema
    answer = client.post(route, json=body)
    assert answer.status_code == 200
    jsonschema.validate(answer.json(), schema | {"components": described["components"]})


@pytest.mark.slow
@pytest.mark.parametrize("generated", [GENERATED, pytest.param(5000 // 5, marks=pytest.mark.nightly)])
def test_generated_requests_get_no_server_error(client: TestClient, generated: int) -> None:
    """Requests that schemathesis makes of the OpenAPI description, valid ones and others."""
    schema = schemathesis.openapi.from_dict(client.app.openapi())  # type: ignore[attr-defined]
    counted = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.method.upper() != "POST":
            continue

        @settings(
            max_examples=generated, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def run(case: Any) -> None:
            nonlocal counted
            counted += 1
            answer = client.request(**case.as_transport_kwargs(base_url="http://testserver"))
            assert answer.status_code < 500, answer.text
            assert answer.status_code == 200 or set(answer.json()) == {"error", "error_type"}

        given(case=operation.as_strategy())(run)()
    assert counted >= 5 * generated * 0.9
