"""Clients of a service: `GLiClassClient`, with the reference's name and methods, and `AsyncGLiClassClient`.

Both share one body. A method is a generator that yields what is to be done, a request to send or seconds to
wait, and gets the outcome, a response or an error; `_run` of a client does what it says, blocking or in an
event loop.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any
from urllib.parse import parse_qsl

from gliclass_fast.serving.client_headers import checked_headers
from gliclass_fast.serving.client_responses import (
    TRY_AGAIN,
    Retries,
    ServeError,
    error_of,
    json_of,
    seconds_until,
)
from gliclass_fast.serving.settings import MOST_PORT
from gliclass_fast.serving.sizes import is_per_text

# variables that httpx2 reads where it makes a session
ENVIRONMENT = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
CONNECTIONS = 256  # of a client, at a time; further requests wait for one

__all__ = ["AsyncGLiClassClient", "GLiClassClient", "Retries", "ServeError"]


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    url: str
    options: dict[str, Any]


_Steps = Generator[_Request | float, Any, Any]
_Place = tuple[int, asyncio.AbstractEventLoop | None]


class _Client:
    """Holds what both clients share: the methods, what they send, and what they make of an answer.

    Every process has a session of its own, as after a fork two would read each other's answers from a shared
    connection; so has every event loop, as connections end with theirs. A session is made where it is first
    needed, so that a client can be copied and pickled: a copy makes its own.
    """

    def __init__(
        self,
        url: str = "http://localhost:8000/gliclass",
        *,
        timeout: float | None = 30.0,
        api_key: str | None = None,
        model: str | None = None,
        retries: Retries | int = 5,
        headers: Mapping[str, str | bytes] | None = None,
        transport: Any = None,
    ) -> None:
        """Makes a client, which keeps its connections; nothing is sent yet.

        Args:
            url: the service's address with the path of the route; where it has a query, as for a gateway,
                every request has it.
            timeout: seconds to wait for an answer, and at most 5 for a connection; None: without end. It
                counts anew with every piece of an answer that comes, so that one that never ends in pieces
                is not bounded: a call that must end in time needs a bound of its own.
            api_key: a key of the service, where it asks for one; white space around it does not count.
            model: the name of a model of the service, where it has several.
            retries: how many times a request is sent again, or more exactly how.
            headers: further headers of every request.
            transport: a transport of httpx2, as for an application in this process; all sessions share it.

        Raises ImportError where httpx2 is missing, and ValueError for what is no address of HTTP, no number
        of seconds or of retries, or no header.
        """
        if timeout is not None and (not isinstance(timeout, Real) or not 0 < timeout < math.inf):
            raise ValueError(f"timeout is a number of seconds above 0, or None for no end, not {timeout!r}")
        path, mark, query = url.partition("?")
        self._path, self._query = path.rstrip("/"), mark + query
        self.url, self.model = self._path + self._query, model
        self.retries = retries if isinstance(retries, Retries) else Retries(retries)
        self._one_text = False  # the service is a reference's, which answers one text of a list
        try:
            import httpx2
        except ImportError as error:
            raise ImportError("the client needs httpx2: pip install 'gliclass-fast[serve]'") from error
        try:
            parts = httpx2.URL(self.url)
            parts.raw_host.decode("ascii").encode("idna")  # as it is when it is looked up
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise ValueError(f"{url!r} is no address: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.host or (parts.port or 0) > MOST_PORT:
            raise ValueError(f"an address is as http://localhost:8000/gliclass, not {url!r}")
        if "#" in url:
            raise ValueError(f"an address of a service has no fragment, which is never sent, as {url!r} has")
        self._failed, self._timed_out = httpx2.RequestError, (httpx2.ReadTimeout, httpx2.WriteTimeout)
        self._unreadable = httpx2.DecodingError
        self._connect = partial(
            getattr(httpx2, self._kind),
            timeout=httpx2.Timeout(timeout, connect=min(5.0, timeout or 5.0), pool=None),
            limits=httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            headers=checked_headers(api_key, headers or {}),
            transport=transport,
        )
        self._sessions: dict[_Place, Any] = {}
        self._closed = False

    _kind: str

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sessions": {}}

    @property
    def _place(self) -> _Place:
        """Returns where a session is at home: this process, and the event loop where there are several."""
        return os.getpid(), None

    @property
    def _session(self) -> Any:
        """Returns the session of this place; those of others are neither used nor closed."""
        if self._closed:
            raise RuntimeError("the client is closed")
        if (found := self._sessions.get(self._place)) is None:
            for process, loop in list(self._sessions):
                if loop is not None and loop.is_closed():
                    self._sessions.pop((process, loop), None)
            try:
                made = self._connect()
            except Exception as error:  # what httpx2 reads in the environment can fail in many ways
                raise ServeError(None, "connection", _no_session(error)) from error
            found = self._sessions.setdefault(self._place, made)
        return found

    def _end(self) -> Any:
        """Takes no further request, and returns the session of this place, which is to be closed, or None."""
        self._closed = True
        return self._sessions.pop(self._place, None)

    def _run(self, steps: _Steps) -> Any:
        raise NotImplementedError

    def __call__(
        self,
        texts: str | Iterable[str],
        labels: Any,
        threshold: float | None = 0.5,
        multi_label: bool = True,
        examples: list[dict[str, Any]] | None = None,
        prompt: str | list[str] | None = None,
        adapter_id: str | None = None,
    ) -> Any:
        """Classifies a text or several.

        Args:
            texts: a text, or several.
            labels: the labels of all texts, or a list of labels per text, or nested objects.
            threshold: the lowest score that counts; None: the service's own.
            multi_label: whether a text may have several labels; else it gets the best one.
            examples: examples that are put before the text, `{"text": ..., "labels": [...]}`.
            prompt: a task description, or one per text.
            adapter_id: an adapter of the service.

        Returns:
            For a text its predictions, `[{"label": ..., "score": ...}]`; for several a list of those, one for
                every text, in order.

        Raises ServeError.
        """
        given = texts if isinstance(texts, str) else list(texts)
        payload = {"texts": given, "labels": labels, "threshold": threshold, "multi_label": multi_label}
        further = {"examples": examples, "prompt": prompt, "adapter_id": adapter_id, "model": self.model}
        payload |= {name: value for name, value in further.items() if value is not None}
        return self._run(self._classification(payload))

    def classify(
        self,
        text: str,
        labels: Any,
        threshold: float | None = 0.5,
        multi_label: bool = True,
        examples: list[dict[str, Any]] | None = None,
        prompt: str | None = None,
        adapter_id: str | None = None,
    ) -> Any:
        """Classifies one text and returns its predictions; the arguments are those of a call."""
        if not isinstance(text, str):
            raise TypeError(f"classify takes one text, a string, not {type(text).__name__}; call the client")
        return self(text, labels, threshold, multi_label, examples, prompt, adapter_id)

    def adapter_cache_status(self, adapter_id: str | None = None) -> Any:
        """Returns what the service says of its adapters, `{"enabled": ..., "base_adapter_id": ...}`."""
        return self._run(self._adapters(adapter_id))

    def is_adapter_cached(self, adapter_id: str) -> Any:
        """Tells whether the service has an adapter at hand."""
        return self._run(self._adapter_is_cached(adapter_id))

    def health_check(self, timeout: float = 5.0) -> Any:
        """Tells whether the service lives; it is asked once, and never raises."""
        return self._run(self._health(timeout))

    def _classification(self, payload: dict[str, Any]) -> _Steps:
        texts = payload["texts"]
        if isinstance(texts, list) and self._one_text:
            return (yield from self._one_by_one(payload))
        if not texts and isinstance(texts, list):
            return []
        answer = yield from self._exchange("POST", self.url, json=payload)
        if not isinstance(answer, list):
            raise ServeError(200, "unknown", f"a list of predictions was expected, not {answer!r:.200}")
        if isinstance(texts, str) or [type(each) for each in answer] == [list] * len(texts):
            return answer
        self._one_text = True  # the answer is that of the first text alone
        return (yield from self._one_by_one(payload, [answer]))

    def _one_by_one(self, payload: dict[str, Any], done: Iterable[Any] = ()) -> _Steps:
        texts, found = payload["texts"], list(done)
        for index in range(len(found), len(texts)):
            own = {"texts": texts[index], "labels": payload["labels"], "prompt": payload.get("prompt")}
            for name, value in [each for each in own.items() if is_per_text(*each)]:
                if len(value) != len(texts):
                    raise ServeError(None, "invalid", f"there are {len(value)} {name} for {len(texts)} texts")
                own[name] = value[index]
            found.append((yield from self._exchange("POST", self.url, json={**payload, **own})))
        return found

    def _adapters(self, adapter_id: str | None) -> _Steps:
        asked: dict[str, Any] = {}
        if adapter_id is not None:  # httpx2 puts these in the place of the address's own
            asked["params"] = [*parse_qsl(self._query[1:], True), ("adapter_id", adapter_id)]
        answer = yield from self._exchange("GET", f"{self._path}/adapter-cache{self._query}", **asked)
        if not isinstance(answer, dict):
            raise ServeError(200, "unknown", f"an object was expected, not {answer!r:.200}")
        return answer

    def _adapter_is_cached(self, adapter_id: str) -> _Steps:
        status = yield from self._adapters(adapter_id)
        return bool(status.get("cached"))

    def _health(self, timeout: float) -> _Steps:
        root = "/".join(self._path.split("/", 3)[:3])
        # Ray Serve answers at the root for services that have no such route, and ours has /health there
        second = f"{root}/-/healthz" if self._path != root else f"{root}/health"
        for address in (f"{self._path}/-/healthz", second):
            outcome = yield _Request("GET", address + self._query, {"timeout": timeout})
            if isinstance(outcome, Exception):
                return False
            if outcome.status_code == 200:
                return True
        return False

    def _exchange(self, method: str, url: str, **options: Any) -> _Steps:
        """Sends a request, again where that may help, and returns the JSON of its answer."""
        attempt = 0
        while True:
            least, outcome = 0.0, (yield _Request(method, url, options))
            if isinstance(outcome, Exception):
                error = self._lost(url, outcome)
            elif outcome.is_success:
                return json_of(outcome)
            else:
                error, least = error_of(outcome), seconds_until(outcome)
                if outcome.status_code not in TRY_AGAIN:
                    raise error
            wait = self.retries.wait(attempt, least)
            if wait is None:
                raise error
            yield wait
            attempt += 1

    def _lost(self, url: str, outcome: Exception) -> ServeError:
        """Returns the error of a connection, after which a request may be sent again; raises any other."""
        if isinstance(outcome, UnicodeEncodeError):
            character = outcome.object[outcome.start]
            message = f"the request is not valid text: {outcome.reason}, as {character!r}"
            raise ServeError(None, "invalid", message)
        if isinstance(outcome, self._timed_out):
            raise ServeError(None, "timeout", f"{url} did not answer in time: {outcome!r}") from outcome
        if isinstance(outcome, self._unreadable):
            raise ServeError(None, "unknown", f"the answer of {url} cannot be read: {outcome!r}") from outcome
        if isinstance(outcome, self._failed):
            return ServeError(None, "connection", f"{url} cannot be reached: {outcome!r}")
        if isinstance(outcome, (TypeError, ValueError, RecursionError)):  # it is no JSON
            raise ServeError(None, "invalid", f"the request cannot be sent: {outcome}") from outcome
        raise outcome


def _no_session(error: Exception) -> str:
    """Returns why no connection can be made, with the names of what the environment says of connections.

    Their values may hold passwords, parts of which an invalid address repeats.
    """
    names = [name for name in sorted(os.environ) if name.upper() in ENVIRONMENT]
    where = f"; the environment sets {', '.join(names)}" if names else ""
    said = "" if type(error).__name__ == "InvalidURL" else f": {error}"
    return f"no connection can be made: {type(error).__name__}{said}{where}"


class GLiClassClient(_Client):
    """Asks a service and waits for its answer; several threads may share one.

    Also a context manager, which closes the connections at its end.
    """

    _kind = "Client"

    def close(self) -> None:
        """Closes the connections; nothing can be asked afterwards."""
        if session := self._end():
            session.close()

    def __enter__(self) -> GLiClassClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self, steps: _Steps) -> Any:
        outcome = None
        try:
            while True:
                outcome = self._outcome(steps.send(outcome))
        except StopIteration as end:
            return end.value

    def _outcome(self, step: _Request | float) -> Any:
        if isinstance(step, float):
            return time.sleep(step)
        try:
            return self._session.request(step.method, step.url, **step.options)
        except Exception as error:
            return error


class AsyncGLiClassClient(_Client):
    """Offers the methods of `GLiClassClient` as coroutines: `await client.classify(...)`.

    Many calls may wait at once, which lets the service batch them. Also an asynchronous context manager.
    """

    _kind = "AsyncClient"

    @property
    def _place(self) -> _Place:
        return os.getpid(), asyncio.get_running_loop()

    async def close(self) -> None:
        """Closes the connections; nothing can be asked afterwards."""
        if session := self._end():
            await session.aclose()

    async def __aenter__(self) -> AsyncGLiClassClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def _run(self, steps: _Steps) -> Any:
        outcome = None
        try:
            while True:
                outcome = await self._outcome(steps.send(outcome))
        except StopIteration as end:
            return end.value

    async def _outcome(self, step: _Request | float) -> Any:
        if isinstance(step, float):
            return await asyncio.sleep(step)
        try:
            return await self._session.request(step.method, step.url, **step.options)
        except Exception as error:
            return error
