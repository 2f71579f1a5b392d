"""Our clients and the reference's, against the real service with the demo checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import gliclass.serve.client as reference
import pytest
import requests

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.serve import GLiClassClient
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.client import AsyncGLiClassClient, ServeError
from gliclass_fast.serving.settings import Limits, ServeSettings
from tests.serving.running import running

TEXTS = ["A rover found ice on Mars.", "", "Simmer the onions, then add the stock."]
LABELS = ["space", "cooking", "sports"]
EXAMPLES = [{"text": "The match is over.", "labels": ["sports"]}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = ServeSettings(device="cpu", api_keys=("key",), limits=Limits(labels=20))
    with running(create_app(settings)) as address:
        yield f"{address}/gliclass"


def close(found: Any, wanted: Any) -> bool:
    """Tells whether predictions have the same labels, and scores within 1e-5."""
    return [[each["label"] for each in row] for row in found] == [
        [each["label"] for each in row] for row in wanted
    ] and [each["score"] for row in found for each in row] == [
        pytest.approx(each["score"], abs=1e-5) for row in wanted for each in row
    ]


def test_every_client_gets_what_the_library_gives(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    calls: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"threshold": 0.3}, {"threshold": 0.3}),
        ({"multi_label": False, "threshold": None}, {"classification_type": "single-label"}),
        ({"examples": EXAMPLES, "prompt": "The topic:"}, {"examples": EXAMPLES, "prompt": "The topic:"}),
        ({"prompt": ["a", "b", "c"], "labels": [LABELS, ["food"], LABELS[:2]]},
         {"prompt": ["a", "b", "c"], "labels": [LABELS, ["food"], LABELS[:2]]}),
    ]  # fmt: skip
    post = requests.post
    key = {"x-api-key": "key"}
    monkeypatch.setattr(
        reference.requests, "post", lambda *args, **options: post(*args, **options, headers=key)
    )

    async def together() -> list[Any]:
        async with AsyncGLiClassClient(url, api_key="key") as client:
            return await asyncio.gather(*(client(TEXTS, **{"labels": LABELS, **ours}) for ours, _ in calls))

    with GLiClassClient(url, api_key="key") as client:
        for (ours, library), at_once in zip(calls, asyncio.run(together()), strict=True):
            wanted = pipeline(TEXTS, **{"labels": LABELS, "threshold": 0.5, **library})
            assert close(client(TEXTS, **{"labels": LABELS, **ours}), wanted)
            assert close(at_once, wanted)
            assert close(reference.GLiClassClient(url)(TEXTS, **{"labels": LABELS, **ours}), wanted)
        one = client.classify(TEXTS[0], LABELS, threshold=0)
        assert close([one], pipeline(TEXTS[0], LABELS, threshold=0))
        assert client(TEXTS[0], LABELS, threshold=0) == one
        assert reference.GLiClassClient(url)(TEXTS[0], LABELS, threshold=0) == one


def test_what_else_a_client_asks_and_is_refused(url: str) -> None:
    with GLiClassClient(url, api_key="key") as client:
        assert client.adapter_cache_status() == {"enabled": False, "base_adapter_id": "__base__"}
        assert client.is_adapter_cached("x") is False and client.health_check() is True
        with pytest.raises(ServeError) as caught:
            client.classify("one", [f"label {index}" for index in range(21)])
        assert caught.value.status == 422 and caught.value.request_id and "labels" in caught.value.message
    with GLiClassClient(url) as client:
        with pytest.raises(ServeError) as caught:
            client.classify("one", LABELS)
        assert (caught.value.status, caught.value.error_type) == (401, "unauthorized")
        assert client.health_check() is True
    assert GLiClassClient("http://127.0.0.1:9/gliclass", retries=0).health_check() is False
