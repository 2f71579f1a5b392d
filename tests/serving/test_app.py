"""The routes: they answer what the library does, and a wrong request gets a documented error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gliclass
import numpy as np
import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.serving import tracing
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.service import Answer
from gliclass_fast.serving.settings import Limits, ServeSettings
from tests.adapters import adapted
from tests.tiny import byte_tokenizer, reference_model

LABELS = ["sports", "politics", "cooking"]
TEXTS = ["The match went to extra time.", "Add a pinch of salt.", ""]
LIMITS = Limits(body_bytes=200_000, texts=50, characters=50_000, request_characters=500_000, labels=40)
HEADERS = {"content-type": "application/json"}


def service(**changes: Any) -> Iterator[TestClient]:
    app = create_app(ServeSettings(device="cpu", **changes))
    app.state.service.start()  # without a lifespan, as every request of a TestClient has its own event loop
    yield TestClient(app)
    asyncio.run(app.state.service.drain())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    yield from service(labels=LABELS, limits=LIMITS)


@pytest.fixture(scope="module")
def guarded() -> Iterator[TestClient]:
    yield from service(api_keys=("first-key", "second-key"), route_prefix="/v1/gliclass")


@pytest.fixture(scope="module")
def pipeline() -> ZeroShotClassificationPipeline:
    return ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)


def close(found: Any, wanted: Any) -> None:
    """Compares JSON with what the library returns: scores within 1e-5, all else equal."""
    if isinstance(wanted, float):
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            close(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other)
    else:
        assert found == wanted


def ok(answer: Any) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_gliclass_answers_a_string_flat_and_a_list_with_every_text(
    client: TestClient, pipeline: ZeroShotClassificationPipeline
) -> None:
    wanted = pipeline(TEXTS, LABELS, threshold=0.2)
    body = {"labels": LABELS, "threshold": 0.2}
    close(ok(client.post("/gliclass", json={"text": TEXTS[0], **body})), wanted[0])
    close(ok(client.post("/gliclass", json={"texts": TEXTS[0], **body})), wanted[0])
    close(ok(client.post("/gliclass/", json={"texts": TEXTS, **body})), wanted)
    single = {"labels": LABELS, "multi_label": False}
    close(
        ok(client.post("/gliclass", json={"texts": TEXTS, **single})),
        pipeline(TEXTS, LABELS, classification_type="single-label"),
    )
    labels = [LABELS, ["art", "music"], ["war"]]
    mixed = {"labels": labels, "multi_label": [True, False, True], "threshold": 0}
    kinds = ["multi-label", "single-label", "multi-label"]
    close(
        ok(client.post("/gliclass", json={"texts": TEXTS, **mixed})),
        pipeline(TEXTS, labels, threshold=0, classification_type=kinds),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"labels": LABELS, "threshold": 0.0},
        {"labels": {"topic": ["sports", "art"], "tone": {"kind": ["warm"]}}, "return_hierarchical": True},
        {"labels": LABELS, "threshold": {"sports": 0.9, "cooking": 0.0}},
        {"labels": LABELS, "threshold": [0.1, 0.2, 0.9], "prompt": "Find the topic."},
        {"labels": [["sports"], ["art", "music"], LABELS], "classification_type": "single-label"},
        {"labels": LABELS, "label_descriptions": {"sports": "games and athletes"}, "threshold": 0},
        {"labels": {"sports": "games", "other": "all else"}, "threshold": 0},
        {"labels": LABELS, "classification_type": "single", "min_score": 0.9, "none_label": "none"},
        {"labels": LABELS, "examples": [{"text": "A goal!", "labels": ["sports"]}], "threshold": 0},
    ],
)
def test_classify_takes_what_the_library_takes(
    client: TestClient, pipeline: ZeroShotClassificationPipeline, arguments: dict[str, Any]
) -> None:
    answer = ok(client.post("/classify", json={"texts": TEXTS, "return_info": True, **arguments}))
    wanted, infos = pipeline(TEXTS, return_info=True, **arguments)
    close(answer["results"], wanted)
    assert [each["tokens"] for each in answer["info"]] == [each.tokens for each in infos]
    assert answer["tokens_cut"] == 0 and min(answer["timing"].values()) >= 0


def test_labels_of_the_service_stand_in(client: TestClient, pipeline: ZeroShotClassificationPipeline) -> None:
    answer = ok(client.post("/classify", json={"texts": TEXTS[0]}))
    close(answer["results"], pipeline(TEXTS[0], LABELS))


def test_hugging_face_body(client: TestClient, pipeline: ZeroShotClassificationPipeline) -> None:
    def scores(texts: Any, kind: str, labels: Any = LABELS) -> Any:
        [found] = pipeline(texts, labels, classification_type=kind, return_hierarchical=True)
        return found

    parameters = {"candidate_labels": LABELS}
    found = ok(client.post("/", json={"inputs": TEXTS[0], "parameters": parameters}))
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    assert sum(each["score"] for each in found) == pytest.approx(1, abs=1e-5)
    assert found[0]["label"] == "sports"
    several = {"candidate_labels": ", ".join(LABELS), "multi_label": True}
    found = ok(client.post("/", json={"inputs": TEXTS[:2], "parameters": several}))
    for text, own in zip(TEXTS, found, strict=False):
        close({each["label"]: each["score"] for each in sorted(own, key=lambda e: LABELS.index(e["label"]))},
              scores(text, "multi-label"))  # fmt: skip
    template = {"candidate_labels": LABELS, "hypothesis_template": "This is about {}."}
    found = ok(client.post("/", json={"inputs": TEXTS[0], "parameters": template}))
    described = {label: f"This is about {label}." for label in LABELS}
    [wanted] = pipeline(
        TEXTS[0], LABELS, classification_type="single-label", label_descriptions=described,
        return_hierarchical=True,
    )  # fmt: skip
    assert {each["label"] for each in found} == set(LABELS)
    close(found[0]["score"], max(wanted.values()))


def test_text_embeddings_inference_bodies(
    client: TestClient, pipeline: ZeroShotClassificationPipeline
) -> None:
    one = ok(client.post("/predict", json={"inputs": TEXTS[0]}))
    assert [list(each) for each in one] == [["score", "label"]] * 3 and one[0]["label"] == "sports"
    assert sum(each["score"] for each in one) == pytest.approx(1, abs=1e-5)
    close(ok(client.post("/predict", json={"inputs": [TEXTS[0]]})), one)
    several = ok(client.post("/predict", json={"inputs": [[TEXTS[0]], [TEXTS[1]]]}))
    close(several[0], one)
    raw = ok(client.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}))
    exponentials = np.exp([each["score"] for each in raw])
    np.testing.assert_allclose(exponentials / exponentials.sum(), [each["score"] for each in one], atol=1e-5)
    body = {"query": "sports", "texts": TEXTS, "return_text": True, "truncation_direction": "right"}
    ranked = ok(client.post("/rerank", json=body))
    wanted = [own[0]["score"] for own in pipeline(TEXTS, ["sports"], threshold=0)]
    assert [each["index"] for each in ranked] == list(np.argsort(wanted)[::-1])
    assert ranked[0]["text"] == TEXTS[ranked[0]["index"]]
    close([each["score"] for each in ranked], sorted(wanted, reverse=True))


def test_what_is_cut_is_said(client: TestClient) -> None:
    long = "word " * 5000
    answer = client.post("/classify", json={"texts": [long, "short"], "return_info": True})
    found = ok(answer)
    assert found["tokens_cut"] == found["info"][0]["tokens_cut"] > 4000
    assert answer.headers["x-tokens-cut"] == str(found["tokens_cut"])
    for route, body in (("/predict", {"inputs": long}), ("/rerank", {"query": "a", "texts": [long]})):
        refused = client.post(route, json=body)
        assert (refused.status_code, refused.json()["error_type"]) == (413, "too_large")
        assert client.post(route, json={**body, "truncate": True}).status_code == 200


def test_headers_tell_how_an_answer_came_about(client: TestClient) -> None:
    answer = client.post("/gliclass", json={"text": "a"}, headers={"x-request-id": "my-id"})
    assert answer.headers["x-request-id"] == "my-id" and answer.headers["x-batch-texts"] == "1"
    assert float(answer.headers["x-forward-ms"]) > 0
    assert len(client.get("/health").headers["x-request-id"]) == 32


TEMPLATES = {"candidate_labels": ["a"], "hypothesis_template": "{}{}"}
LONG_EXAMPLES = [{"text": "p" * 40_000, "labels": ["a"]}]
WRONG: list[tuple[str, Any, int, str]] = [
    ("/classify", b"{no json", 422, "invalid_json"),
    ("/classify", b"[" * 100_000, 422, "invalid_json"),
    ("/classify", b'{"texts": "a", "labels": ' + b'{"a":' * 400 + b"[]" + b"}" * 401, 422, "invalid"),
    ("/classify", {"texts": "a", "labels": {"a": [str(n) for n in range(41)]}}, 422, "invalid"),
    ("/classify", {"texts": ["a"], "labels": [[str(n) for n in range(41)]]}, 422, "invalid"),
    ("/classify", b"\xff\xfe", 422, "invalid_json"),
    ("/classify", b'{"texts": "a", "threshold": NaN}', 422, "invalid"),
    ("/classify", b'{"texts": "a", "threshold": 1e999}', 422, "invalid"),
    ("/classify", b'{"texts": "a", "threshold": [1' + b"0" * 400 + b"]}", 422, "invalid"),
    ("/classify", b'{"texts": "\\ud800"}', 422, "invalid"),
    ("/classify", {"texts": "a", "labels": ["\ud800"]}, 422, "invalid"),
    ("/classify", {}, 422, "invalid"),
    ("/classify", [], 422, "invalid"),
    ("/classify", {"texts": 5}, 422, "invalid"),
    ("/classify", {"texts": "a", "treshold": 0.5}, 422, "invalid"),
    ("/classify", {"texts": "a", "threshold": 2}, 422, "invalid"),
    ("/classify", {"texts": "a", "threshold": {"unknown": 0.5}}, 422, "invalid"),
    ("/classify", {"texts": "a", "labels": []}, 422, "invalid"),
    ("/classify", {"texts": ["a", "b"], "labels": [["x"]]}, 422, "invalid"),
    ("/classify", {"texts": "a", "labels": [str(n) for n in range(41)]}, 422, "invalid"),
    ("/classify", {"texts": "a", "labels": ["word " * 600]}, 422, "invalid"),
    ("/classify", {"texts": "a", "labels": {"a": {"b": 5}}}, 422, "invalid"),
    ("/classify", {"texts": ["a"] * 51}, 422, "invalid"),
    ("/classify", {"texts": "a" * 50_001}, 413, "too_large"),
    ("/classify", {"texts": ["a"] * 40, "prompt": "p" * 40_000}, 413, "too_large"),
    ("/classify", {"texts": ["a"] * 40, "examples": LONG_EXAMPLES}, 413, "too_large"),
    ("/classify", {"texts": "a", "labels": {"k" * 20_000: list("abcd")}}, 413, "too_large"),
    ("/classify", {"texts": ["word " * 400] * 45}, 413, "too_large"),
    ("/classify", {"texts": "a", "labels": [1] * 60_000}, 422, "invalid"),
    ("/classify", {"texts": [1] * 60_000}, 422, "invalid"),
    ("/classify", {"texts": "a", "k" * 100_000: 1}, 422, "invalid"),
    ("/classify", {"texts": "a" * 200_001}, 413, "too_large"),
    ("/classify", {"texts": "a", "adapter_id": "mine"}, 404, "unknown_name"),
    ("/classify", {"texts": "a", "min_score": 0.5}, 422, "invalid"),
    ("/gliclass", {"labels": ["a"]}, 422, "invalid"),
    ("/gliclass", {"text": "a", "texts": ["b"]}, 422, "invalid"),
    ("/gliclass", {"text": "a", "multi_label": "yes"}, 422, "invalid"),
    ("/", {"inputs": "a", "parameters": {"candidate_labels": []}}, 422, "invalid"),
    ("/", {"inputs": "a", "parameters": {"hypothesis_template": "x"}}, 422, "invalid"),
    ("/", {"inputs": "a", "parameters": TEMPLATES}, 422, "invalid"),
    ("/predict", {"inputs": ["a", "b"]}, 422, "invalid"),
    ("/predict", {"inputs": []}, 422, "invalid"),
    ("/rerank", {"query": "a", "texts": []}, 422, "invalid"),
    ("/nothing", {}, 404, "not_found"),
    ("/health", {}, 405, "method_not_allowed"),
]  # fmt: skip


@pytest.mark.parametrize(("route", "body", "status", "error_type"), WRONG)
def test_a_wrong_request_is_a_documented_error(
    client: TestClient, route: str, body: Any, status: int, error_type: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    start = time.monotonic()
    answer = client.post(route, content=content, headers=HEADERS)
    assert time.monotonic() - start < 2, "it is refused before anything is made of it"
    assert (answer.status_code, answer.json()["error_type"]) == (status, error_type), answer.text
    assert set(answer.json()) == {"error", "error_type"} and len(answer.text) < 2000
    assert "Traceback" not in answer.text and "labels_per_pass" not in answer.text
    assert client.post("/gliclass", json={"text": "a"}).status_code == 200, "the service stays up"


@pytest.mark.parametrize(
    ("path", "allowed"), [("/", "GET, HEAD, POST"), ("/classify", "POST"), ("/metrics", "GET, HEAD")]
)
def test_another_method_is_told_which_there_are(client: TestClient, path: str, allowed: str) -> None:
    answer = client.put(path, json={})
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert client.head(path).status_code == (200 if "HEAD" in allowed else 405)


def test_a_body_without_its_type_is_told_what_is_wanted(client: TestClient) -> None:
    answer = client.post("/gliclass", content=b'{"text": "a"}')
    assert answer.status_code == 422 and "application/json" in answer.json()["error"]


def test_a_body_in_chunks_is_counted(client: TestClient) -> None:
    answer = client.post("/gliclass", content=(b"a" * 1000 for _ in range(300)), headers=HEADERS)
    assert (answer.status_code, answer.json()["error_type"]) == (413, "too_large")


def test_keys(guarded: TestClient) -> None:
    route, body = "/v1/gliclass", {"text": "a", "labels": ["b"]}
    for headers in ({}, {"x-api-key": "wrong"}, {"authorization": "Bearer first-ke"}, {"x-api-key": "é"}):
        sent = {name: value.encode() for name, value in headers.items()}
        answer = guarded.post(route, json=body, headers=sent)
        assert (answer.status_code, answer.json()["error_type"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer ")
    for headers in (
        {"x-api-key": "second-key"},
        {"authorization": "bearer first-key"},
        {"authorization": "Bearer of-a-gateway", "x-api-key": "first-key"},
        {"authorization": "Bearer first-key", "x-api-key": "of-a-gateway"},
    ):
        assert guarded.post(route, json=body, headers=headers).status_code == 200
    assert [guarded.get(path).status_code for path in ("/health", "/ready", "/v1/gliclass/-/healthz")] == [
        200
    ] * 3
    assert [guarded.head(path).status_code for path in ("/health", "/info")] == [200, 401]
    assert [guarded.get(path).status_code for path in ("/info", "/metrics")] == [401, 401]
    assert guarded.get("/metrics", headers={"x-api-key": "first-key"}).status_code == 200


def test_a_request_names_its_model(
    tmp_path: Path, client: TestClient, pipeline: ZeroShotClassificationPipeline
) -> None:
    reference_model("bert").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    for both in service(more_models={"tiny": str(tmp_path)}):
        other = ZeroShotClassificationPipeline(tmp_path, device="cpu", progress_bar=False)
        body = {"texts": TEXTS, "labels": LABELS, "threshold": 0.0}
        for name, one in ((None, pipeline), ("tiny", other), (str(demo.PATH), pipeline)):
            wanted = one(TEXTS, LABELS, threshold=0)
            close(ok(both.post("/classify", json={**body, "model": name}))["results"], wanted)
            close(ok(both.post("/gliclass", json={**body, "model": name})), wanted)
        unknown = both.post("/classify", json={**body, "model": "other"})
        assert (unknown.status_code, unknown.json()["error_type"]) == (404, "unknown_name")
        assert both.get("/info").json()["more_models"] == {"tiny": str(tmp_path)}


def test_information_and_metrics(client: TestClient) -> None:
    info = ok(client.get("/info"))
    assert info["limits"]["queue_tokens"] == 8 * info["batch_tokens"]
    assert info["labels"] == LABELS and info["device"] == "cpu" and info["max_length"] == 512
    assert info["threshold"] == 0.5
    assert ok(client.get("/gliclass/adapter-cache?adapter_id=x")) == ok(client.get("/adapter-cache"))
    before = _metrics(client)
    client.post("/gliclass", json={"texts": ["a", "b"]})
    client.post("/gliclass", json={"texts": 5})
    now = _metrics(client)
    for name, more in (
        ("gliclass_texts_total", 2),
        ('gliclass_requests_total{route="/gliclass",status="200"}', 1),
        ('gliclass_rejected_total{reason="invalid",route="/gliclass"}', 1),
        ("gliclass_queue_seconds_count", 1),
        ("gliclass_tokenize_seconds_count", 1),
        ("gliclass_forward_seconds_count", 1),
        ("gliclass_batch_texts_sum", 2),
        ('gliclass_request_seconds_count{route="/gliclass"}', 2),
        ("gliclass_queue_tokens", 0),
    ):
        assert now[name] - before.get(name, 0) == more, name


def _metrics(client: TestClient) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, value in lines}


def test_spans_of_a_request(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(tracing, "tracer", tracer)
    service: Any = client.app.state.service  # type: ignore[attr-defined]

    async def ask() -> Answer:
        with tracer.start_as_current_span("request"):
            answer: Answer = await service.answer({"texts": TEXTS, "labels": LABELS})
        return answer

    answer = asyncio.run(ask())
    spans: dict[str, Any] = {span.name: span for span in exporter.get_finished_spans()}
    parent = spans.pop("request")
    assert list(spans) == ["gliclass.tokenize", "gliclass.queue", "gliclass.forward"]
    end = parent.start_time
    for span in spans.values():
        assert span.parent.span_id == parent.context.span_id
        assert end <= span.start_time <= span.end_time <= parent.end_time
        end = span.end_time
    assert spans["gliclass.tokenize"].attributes["gliclass.texts"] == len(TEXTS)
    assert spans["gliclass.forward"].attributes["gliclass.batch_texts"] == answer.done[0].batch_texts


def test_adapters_of_requests(tmp_path: Path) -> None:
    """Requests with different adapters share a batch; the cache says where an adapter is."""
    adapted(gliclass.GLiClassModel.from_pretrained(demo.PATH), tmp_path, 1)
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    pipeline.load_adapter("mine", tmp_path)
    for client in service(labels=LABELS, adapters={"mine": str(tmp_path)}, threshold=0.0):
        for adapter in ("mine", None, "__base__"):
            own = None if adapter == "__base__" else adapter
            wanted = pipeline(TEXTS, LABELS, threshold=0.0, adapter_ids=own)
            body = {"texts": TEXTS, "adapter_id": adapter}
            close(ok(client.post("/classify", json=body))["results"], wanted)
            close(ok(client.post("/gliclass", json=body)), wanted)
        error = client.post("/classify", json={"texts": "a", "adapter_id": "other"})
        assert error.status_code == 404 and "there are ['mine']" in error.text
        known = {"enabled": True, "base_adapter_id": "__base__", "loaded": ["mine"]}
        where = {"adapter_id": "mine", "cached": True, "cpu_resident": True, "gpu_resident": True}
        assert ok(client.get("/adapter-cache")) == known
        assert ok(client.get("/gliclass/adapter-cache?adapter_id=mine")) == known | where
        assert ok(client.get("/adapter-cache?adapter_id=x"))["cached"] is False
