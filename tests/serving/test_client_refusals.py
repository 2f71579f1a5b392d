"""What a client refuses where it is made, and what it cannot send: the errors name the cause."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import httpx2
import numpy as np
import pytest

from gliclass_fast.serving.client import AsyncGLiClassClient, GLiClassClient, Retries, ServeError
from tests.serving.test_client import A, Both

URL = "http://service:8000/gliclass"


@pytest.mark.parametrize("retries", [None, "3", 2.0, -1])
def test_what_is_no_number_of_retries_is_said_at_once(retries: Any) -> None:
    for kind in (GLiClassClient, AsyncGLiClassClient):
        with pytest.raises(ValueError, match="retries are a whole number from 0, not"):
            kind(URL, retries=retries)
    with pytest.raises(ValueError, match="retries are a whole number from 0, not"):
        Retries(retries)


@pytest.mark.parametrize("name", ["first", "longest"])
@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, None, "1"])
def test_what_is_no_wait_is_said_at_once(name: str, seconds: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} of Retries is a number of seconds from 0"):
        Retries(**{name: seconds})
    assert Retries(first=0, longest=0).wait(0) == 0.0


def test_a_time_is_a_number() -> None:
    with pytest.raises(ValueError, match=r"timeout is a number of seconds above 0, .*not '5'"):
        GLiClassClient(URL, timeout="5")  # type: ignore[arg-type]
    GLiClassClient(URL, timeout=np.float32(5)).close()


@pytest.mark.parametrize("address", [f"{URL}#part", f"{URL}#", f"{URL}#a?b"])
def test_an_address_with_a_fragment_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="an address of a service has no fragment"):
        GLiClassClient(address)


@pytest.mark.parametrize(
    ("address", "asked"),
    [
        (
            "http://s:1/gliclass/?key=a%2Fb&x",
            ["/gliclass?key=a%2Fb&x", "/gliclass/adapter-cache?key=a%2Fb&x",
             "/gliclass/adapter-cache?key=a%2Fb&x=&adapter_id=z",
             "/gliclass/-/healthz?key=a%2Fb&x", "/-/healthz?key=a%2Fb&x"],
        ),
        ("http://s:1", ["/", "/adapter-cache", "/adapter-cache?adapter_id=z", "/-/healthz", "/health"]),
        ("http://s:1/", ["/", "/adapter-cache", "/adapter-cache?adapter_id=z", "/-/healthz", "/health"]),
        ("http://s:1/a?b=c/", ["/a?b=c/", "/a/adapter-cache?b=c/", "/a/adapter-cache?b=c%2F&adapter_id=z",
                               "/a/-/healthz?b=c/", "/-/healthz?b=c/"]),
    ],
)  # fmt: skip
def test_every_address_is_beside_the_one_that_was_given(address: str, asked: list[str]) -> None:
    found: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.raw_path.decode()
        found.append(path)
        if "health" in path:
            return httpx2.Response(404 if "/a/" in path or "gliclass" in path or len(found) == 4 else 200)
        return httpx2.Response(200, json=A if request.method == "POST" else {"cached": True})

    with GLiClassClient(address, transport=httpx2.MockTransport(answer)) as client:
        client.classify("one", ["a"])
        client.adapter_cache_status()
        assert client.is_adapter_cached("z") and client.health_check()
    assert found == asked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": {"a", "b"}}, "Object of type set is not JSON serializable"),
        ({"labels": np.array(["a"])}, "Object of type ndarray is not JSON serializable"),
        ({"threshold": np.float32(0.5)}, "Object of type float32 is not JSON serializable"),
        ({"threshold": math.nan}, "Out of range float values are not JSON compliant"),
    ],
)
def test_what_cannot_be_json_is_an_error_of_the_request(given: dict[str, Any], message: str) -> None:
    both = Both([A])
    with pytest.raises(ServeError, match=f"the request cannot be sent: {message}") as caught:
        both(lambda client: client.classify("one", **{"labels": ["a"], **given}))
    assert (caught.value.status, caught.value.error_type) == (None, "invalid") and not both.requests


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("HTTP_PROXY", "junk://user:secret@x", "Unknown scheme for proxy URL"),
        ("http_proxy", "http://user:secret/x@host:port", "InvalidURL"),
        ("SSL_CERT_FILE", "/nowhere/none.pem", "FileNotFoundError"),
    ],
)
def test_what_the_environment_makes_impossible_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    client, other = GLiClassClient(URL), AsyncGLiClassClient(URL)
    for ask in (lambda: client.classify("one", ["a"]), lambda: asyncio.run(other.classify("one", ["a"]))):
        with pytest.raises(ServeError, match=f"no connection can be made: .*{message}.*{name}") as caught:
            ask()
        assert caught.value.error_type == "connection" and "secret" not in str(caught.value)
    assert client.health_check() is False
    monkeypatch.delenv(name)
    assert client.health_check(0.1) is False  # it asks now, and finds nobody
