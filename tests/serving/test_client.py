"""Both clients, against answers that a test writes down: what they send, return, try again and raise."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest

from gliclass_fast.serving import client as module
from gliclass_fast.serving import client_responses
from gliclass_fast.serving.client import AsyncGLiClassClient, GLiClassClient, Retries, ServeError

Handler = Callable[[httpx2.Request], httpx2.Response]
URL = "http://service:8000/gliclass"
A, B = [{"label": "a", "score": 0.75}], [{"label": "b", "score": 0.5}]


class Both:
    """Runs every call with both clients, which must do the same."""

    def __init__(self, answers: list[Any] | Handler, **options: Any) -> None:
        self.answers, self.options = answers, options
        self.requests: list[httpx2.Request] = []

    def __call__(self, call: Callable[[Any], Any]) -> Any:
        def transport() -> httpx2.MockTransport:
            self.requests = []
            left = list(self.answers) if isinstance(self.answers, list) else None

            def answer(request: httpx2.Request) -> httpx2.Response:
                self.requests.append(request)
                if left is None:
                    return self.answers(request)  # type: ignore[operator]
                found = left.pop(0)
                if isinstance(found, Exception):
                    raise found
                if not isinstance(found, httpx2.Response):
                    return httpx2.Response(200, json=found)
                return httpx2.Response(found.status_code, headers=found.headers, content=found.content)

            return httpx2.MockTransport(answer)

        async def asynchronous() -> Any:
            async with AsyncGLiClassClient(URL + "/", transport=transport(), **self.options) as client:
                return await call(client)

        async_result = _outcome(lambda: asyncio.run(asynchronous()))
        async_requests = self.requests
        with GLiClassClient(URL + "/", transport=transport(), **self.options) as client:
            result = _outcome(lambda: call(client))
        assert repr(result) == repr(async_result)
        assert [(r.method, r.url, r.content) for r in self.requests] == [
            (r.method, r.url, r.content) for r in async_requests
        ]
        if isinstance(result, Exception):
            raise result
        return result

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nothing waits; the fixture holds the seconds that would have been waited."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(module.time, "sleep", waited.append)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    monkeypatch.setattr(client_responses.random, "uniform", lambda low, high: high)
    return waited


def refusal(status: int, error_type: str = "overloaded", **headers: str) -> httpx2.Response:
    body = {"error": "the queue is full", "error_type": error_type}
    return httpx2.Response(status, json=body, headers={"x-request-id": "r1", **headers})


def test_what_is_sent_and_returned() -> None:
    both = Both([A], api_key="key", headers={"x-team": "t"})
    assert both(lambda client: client.classify("one", ["a", "b"], threshold=0.25)) == A
    assert both.bodies == [{"texts": "one", "labels": ["a", "b"], "threshold": 0.25, "multi_label": True}]
    (request,) = both.requests
    assert str(request.url) == URL and request.method == "POST"
    assert request.headers["authorization"] == "Bearer key" and request.headers["x-team"] == "t"
    examples = [{"text": "x", "labels": ["a"]}]
    both = Both([[A, B]], model="m")
    assert both(lambda client: client(("one", "two"), ["a"], None, False, examples, "p", "z")) == [A, B]
    assert both.bodies == [
        {"texts": ["one", "two"], "labels": ["a"], "threshold": None, "multi_label": False,
         "examples": examples, "prompt": "p", "adapter_id": "z", "model": "m"}
    ]  # fmt: skip


def test_nothing_above_the_threshold_is_no_error_and_no_text_no_request() -> None:
    assert Both([[]])(lambda client: client.classify("one", ["a"])) == []
    assert Both([[[], []]])(lambda client: client(["one", "two"], ["a"])) == [[], []]
    assert Both([])(lambda client: client([], ["a"])) == []


def test_several_texts_to_a_classification_of_one_are_a_mistake() -> None:
    with pytest.raises(TypeError, match="classify takes one text, a string, not list"):
        Both([])(lambda client: client.classify(["one"], ["a"]))


def reference(request: httpx2.Request) -> httpx2.Response:
    """Answers as the reference's deployment does: of a list the first text alone."""
    body = json.loads(request.content)
    text = body["texts"][0] if isinstance(body["texts"], list) else body["texts"]
    if not isinstance(body["labels"][0], str):
        return httpx2.Response(500, text="Internal Server Error")
    found = [{"label": label, "score": 1.0} for label in body["labels"] if label in text]
    return httpx2.Response(200, json=found)


def test_a_reference_s_service_answers_every_text_too() -> None:
    both = Both(reference)
    assert both(lambda client: client(["a b", "", "b"], ["a", "b"])) == [
        [{"label": "a", "score": 1.0}, {"label": "b", "score": 1.0}], [], [{"label": "b", "score": 1.0}]
    ]  # fmt: skip
    assert [body["texts"] for body in both.bodies] == [["a b", "", "b"], "", "b"]
    assert both(lambda client: client(["none"], ["x"])) == [[]]
    with GLiClassClient(URL, transport=httpx2.MockTransport(reference)) as client:
        client(["a", "b"], ["a"])  # the client now knows that service
        with pytest.raises(ServeError, match="1 labels for 2 texts"):
            client(["a", "b"], [["a"]])
        found = client(["a", "b"], [["a"], ["c", "b"]], prompt=["p", "q"])
    assert found == [[{"label": "a", "score": 1.0}], [{"label": "b", "score": 1.0}]]


def test_a_service_that_has_moved_is_named() -> None:
    both = Both([httpx2.Response(307, headers={"location": "https://elsewhere/gliclass"})], api_key="secret")
    with pytest.raises(ServeError, match="moved to https://elsewhere/gliclass"):
        both(lambda client: client.classify("one", ["a"]))


@pytest.mark.parametrize("status", [429, 503, 504])
def test_what_may_help_is_sent_again_with_longer_waits(status: int, waits: list[float]) -> None:
    both = Both([refusal(status), httpx2.ConnectError("refused"), httpx2.ReadError("reset"), A])
    assert both(lambda client: client.classify("one", ["a"])) == A
    assert len(both.requests) == 4 and waits[:3] == [0.2, 0.4, 0.8]


def test_the_service_says_when_to_come_back(waits: list[float]) -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=8), usegmt=True)
    never = "Mon, 01 Jan 99999999999999 00:00:00 GMT"
    both = Both([*(refusal(429, **{"retry-after": each}) for each in ("3", soon, "x", never)), A])
    assert both(lambda client: client.classify("one", ["a"])) == A
    assert waits[4] == 3.2 and 6 <= waits[5] <= 8.4 and waits[6:] == [0.8, 1.6]
    with pytest.raises(ServeError) as caught:
        Both([refusal(429, **{"retry-after": "11"})])(lambda client: client.classify("one", ["a"]))
    assert caught.value.status == 429


def test_tries_are_bounded(waits: list[float]) -> None:
    both = Both([refusal(503, "draining")] * 9, retries=Retries(times=4, first=1.0, longest=3.0))
    with pytest.raises(ServeError, match="the queue is full"):
        both(lambda client: client.classify("one", ["a"]))
    assert len(both.requests) == 5 and waits == [1.0, 2.0, 3.0, 3.0] * 2
    assert Retries(times=10**6).wait(10**5) == 10.0
    both = Both([httpx2.ConnectError("refused")], retries=0)
    with pytest.raises(ServeError) as caught:
        both(lambda client: client.classify("one", ["a"]))
    assert (caught.value.status, caught.value.error_type) == (None, "connection")
    assert "service:8000/gliclass cannot be reached" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "status", "error_type", "message"),
    [
        (refusal(422, "invalid"), 422, "invalid", "the queue is full"),
        (refusal(401, "unauthorized"), 401, "unauthorized", "the queue is full"),
        (httpx2.Response(400, json={"error": "no"}), 400, "unknown", "no"),  # as the reference's service
        (httpx2.Response(500, text="Internal Server Error"), 500, "unknown", "Internal Server Error"),
        (httpx2.Response(502, json=["x"]), 502, "unknown", '["x"]'),
        (httpx2.Response(404), 404, "unknown", "Not Found"),
        (httpx2.Response(200, text="<html>"), 200, "unknown", "the answer is not JSON: '<html>'"),
        (httpx2.Response(200, text="[" * 200_000), 200, "unknown", "the answer is not JSON: '[[["),
        (httpx2.Response(500, text="[" * 200_000), 500, "unknown", "[[["),
        (httpx2.Response(200, json={"a": 1}), 200, "unknown", "a list of predictions was expected, not {'a'"),
        (httpx2.DecodingError("no gzip"), None, "unknown", f"the answer of {URL} cannot be read: Decoding"),
        (httpx2.Response(304), 304, "unknown", "Not Modified"),
        (httpx2.Response(300, text="choose"), 300, "unknown", "choose"),
        (httpx2.ReadTimeout("late"), None, "timeout", f"{URL} did not answer in time"),
    ],
)
def test_errors_say_what_the_service_said(
    answer: Any, status: int | None, error_type: str, message: str
) -> None:
    both = Both([answer], retries=0)
    with pytest.raises(ServeError) as caught:
        both(lambda client: client.classify("one", ["a"]))
    error = caught.value
    assert (error.status, error.error_type) == (status, error_type) and error.message.startswith(message)
    assert len(both.requests) == 1 and str(error).startswith(message)
    copied = pickle.loads(pickle.dumps(error))
    assert vars(copied) == vars(error) and str(copied) == str(error)


@pytest.mark.parametrize("charset", ["hex", "rot13", "idna", "none"])
@pytest.mark.parametrize(("status", "message"), [(500, "zß"), (200, "the answer is not JSON: 'zß'")])
def test_the_text_of_an_answer_is_read_whatever_its_charset(charset: str, status: int, message: str) -> None:
    headers = {"content-type": f"text/plain; charset={charset}"}
    with pytest.raises(ServeError) as caught:
        Both([httpx2.Response(status, content="zß".encode(), headers=headers)])(
            lambda client: client.classify("one", ["a"])
        )
    assert (caught.value.status, caught.value.message) == (status, message)


def test_what_is_no_address_is_said_at_once() -> None:
    none = ("", "localhost:8000/gliclass", "ftp://a/b", "http://", "http://localhost:port/gliclass")
    for url in (*none, "http://localhost:99999/gliclass", "http://a..b/", f"http://{'a' * 70}.org/"):
        for kind in (GLiClassClient, AsyncGLiClassClient):
            with pytest.raises(ValueError, match="address"):
                kind(url)


@pytest.mark.parametrize("timeout", [-1.0, 0, float("nan"), float("inf")])
def test_what_is_no_time_is_said_at_once(timeout: float) -> None:
    for kind in (GLiClassClient, AsyncGLiClassClient):
        with pytest.raises(ValueError, match="timeout is a number of seconds"):
            kind(URL, timeout=timeout)


@pytest.mark.parametrize("arguments", [("\ud800", ["a"]), ("one", ["b\ud800"])])
def test_what_is_no_text_is_not_sent(arguments: Any) -> None:
    both = Both([A])
    with pytest.raises(ServeError, match=r"not valid text: surrogates not allowed, as '\\ud800'") as caught:
        both(lambda client: client.classify(*arguments))
    assert caught.value.error_type == "invalid" and not both.requests


def test_a_key_is_sent_as_the_service_reads_it() -> None:
    both = Both([A], api_key=" kéy\n")
    assert both(lambda client: client.classify("one", ["a"])) == A
    assert (b"Authorization", "Bearer kéy".encode()) in both.requests[0].headers.raw


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "secret\nkey"}, "api_key has a control character"),
        ({"api_key": "secret\x7f"}, "api_key has a control character"),
        ({"api_key": "secret\ud800"}, "api_key is not valid text"),
        ({"api_key": " \n"}, "api_key is empty"),
        (
            {"headers": {"x-team": "secret\n"}},
            r"headers\['x-team'\] has a control character, as a line end, or",
        ),
        ({"headers": {"x team": "secret"}}, "headers: 'x team' is no name of a header"),
        ({"headers": {b"x-team": "secret"}}, "headers: b'x-team' is no name of a header"),
    ],
)
def test_a_header_that_cannot_be_sent_is_said_at_once(options: dict[str, Any], message: str) -> None:
    for kind in (GLiClassClient, AsyncGLiClassClient):
        with pytest.raises(ValueError, match=message) as caught:
            kind(URL, **options)
        assert "secret" not in str(caught.value)


def test_headers_of_all_kinds_are_sent() -> None:
    both = Both([A], headers={"x-empty": "", "x-text": "a\tb é", "x-bytes": b"\xff"})
    assert both(lambda client: client.classify("one", ["a"])) == A
    sent = dict(both.requests[0].headers.raw)
    assert [sent[name] for name in (b"x-empty", b"x-text", b"x-bytes")] == [b"", "a\tb é".encode(), b"\xff"]
    both = Both([A], api_key="mine", headers={"authorization": "theirs"})
    assert both(lambda client: client.classify("one", ["a"])) == A
    assert both.requests[0].headers.get_list("authorization") == ["theirs"]


def test_an_error_names_the_request() -> None:
    with pytest.raises(ServeError, match=r"the queue is full \(status 422, invalid, request r1\)$"):
        Both([refusal(422, "invalid")])(lambda client: client.classify("one", ["a"]))


def test_adapters_are_asked_for() -> None:
    status = {"enabled": False, "base_adapter_id": "__base__"}
    both = Both([status])
    assert both(lambda client: client.adapter_cache_status()) == status
    assert str(both.requests[0].url) == f"{URL}/adapter-cache"
    both = Both([{**status, "cached": True}])
    assert both(lambda client: client.is_adapter_cached("a/b")) is True
    assert str(both.requests[0].url) == f"{URL}/adapter-cache?adapter_id=a%2Fb"
    assert Both([status])(lambda client: client.is_adapter_cached("x")) is False
    with pytest.raises(ServeError, match="an object was expected, not None"):
        Both([httpx2.Response(200, text="null")])(lambda client: client.is_adapter_cached("x"))


@pytest.mark.parametrize(
    ("answers", "lives"),
    [
        ([httpx2.Response(200)], True),
        ([httpx2.Response(500), httpx2.Response(200)], True),  # the reference's, behind Ray Serve
        ([httpx2.Response(503), httpx2.Response(503)], False),
        ([httpx2.ConnectError("refused")], False),
        ([httpx2.ReadTimeout("late")], False),
        ([httpx2.DecodingError("no gzip")], False),
    ],
)
def test_the_health_of_a_service(answers: list[Any], lives: bool, waits: list[float]) -> None:
    both = Both(answers)
    assert both(lambda client: client.health_check()) is lives and not waits
    paths = [request.url.path for request in both.requests]
    assert paths == ["/gliclass/-/healthz", "/-/healthz"][: len(answers)]


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), "x"])
def test_the_health_is_no_error(timeout: Any) -> None:
    """Sockets refuse the time, and a closed client every request."""
    client, closed = GLiClassClient("http://127.0.0.1:9/gliclass"), GLiClassClient(URL)
    closed.close()
    assert client.health_check(timeout) is False and closed.health_check() is False

    async def asynchronous() -> list[bool]:
        client, closed = AsyncGLiClassClient("http://127.0.0.1:9/gliclass"), AsyncGLiClassClient(URL)
        await closed.close()
        return [await client.health_check(timeout), await closed.health_check()]

    assert asyncio.run(asynchronous()) == [False, False]


def test_calls_of_one_client_wait_together() -> None:
    """The requests of an event loop are under way at once: the service sees all before it answers any."""

    async def ask() -> list[Any]:
        arrived, all_here = [], asyncio.Event()

        async def answer(request: httpx2.Request) -> httpx2.Response:
            arrived.append(request)
            if len(arrived) == 8:
                all_here.set()
            await all_here.wait()
            return httpx2.Response(200, json=A)

        async with AsyncGLiClassClient(URL, transport=httpx2.MockTransport(answer)) as client:
            return await asyncio.gather(*(client.classify(str(index), ["a"]) for index in range(8)))

    assert asyncio.run(asyncio.wait_for(ask(), 5)) == [A] * 8


def test_the_module_is_cheap() -> None:
    """httpx2 is imported by a client, and torch by none."""
    program = (
        "import sys, gliclass_fast.serving.client as c; assert 'httpx2' not in sys.modules; "
        "c.GLiClassClient().close(); assert 'httpx2' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
