"""Access to a service: keys, the size of bodies, the id of a request, and the log of what was answered."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gliclass_fast.serving.errors import Draining, RequestError, TooLarge, Unauthorized
from gliclass_fast.serving.metrics import Metrics

logger = logging.getLogger(__name__)

LONGEST_MESSAGE = 500  # characters of an error, which may repeat a part of what the caller sent
CLIENT_LEFT = 499  # nginx's status for a client that left before its answer; nobody reads it
LONGEST_ID = 128  # characters of a request id that a caller may choose
OPEN = ("/", "/health", "/ready", "/docs", "/openapi.json")  # whoever has no key may read these


class Access:
    """Stands before an app: it lets requests in, counts and logs them, and turns every error into JSON."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, api_keys: tuple[str, ...], body_bytes: int, probe: str,
        draining: Callable[[], bool], queued: Collection[str] = (),
        check_room: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Takes what stands behind, and what it needs to know of the service.

        probe: the path that needs no key. draining: whether the service ends. queued: the paths whose
            requests wait in its queue. check_room: raises where there is no room for them.
        """
        self.app, self.metrics, self.body_bytes = app, metrics, body_bytes
        self._queued, self._check_room = queued, check_room
        self._keys = [key.encode() for key in api_keys]
        self._open, self._draining = (*OPEN, probe), draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request; whatever else there is passes through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, method = time.monotonic(), 0, scope["method"]
        if method == "HEAD":  # the server itself leaves out what stands below the headers
            scope = {**scope, "method": "GET"}
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id", b""))
        state = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._check_key(scope, headers)
            receive = self._counted(headers, receive)
            if method == "POST" and scope["path"] in self._queued:
                await self._let_in(receive)
            await self.app(scope, receive, answered)
        except RequestError as error:
            state["error_type"] = error.error_type
            response = error_response(error.status, error.error_type, str(error), error.headers)
            await response(scope, receive, answered)
        except asyncio.CancelledError:  # at its end the server gives up a request that has not come whole
            if status or not self._draining():
                raise
            state["error_type"] = Draining.error_type
            message = "the service is about to end, and the request has not come whole"
            response = error_response(Draining.status, Draining.error_type, message, {"retry-after": "1"})
            await response(scope, receive, answered)
        except Exception:
            logger.exception("a request failed", extra={"request_id": state["request_id"]})
            state["error_type"] = "internal"
            if not status:
                response = error_response(500, "internal", "the service failed; its log says why")
                await response(scope, receive, answered)
        finally:
            self._observe(scope, method, status or CLIENT_LEFT, time.monotonic() - start)

    async def _let_in(self, receive: Receive) -> None:
        """Raises where there is no room, once the body has come: a client that sends must see the answer."""
        try:
            self._check_room()
        except RequestError:
            with suppress(HTTPException):  # which says that the body is too long
                while (await receive()).get("more_body"):
                    pass
            raise

    def _check_key(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if not self._keys or (scope["method"] == "GET" and scope["path"] in self._open):
            return
        kind, _, token = headers.get(b"authorization", b"").partition(b" ")
        bearer = token.strip() if kind.lower() == b"bearer" else b""  # it may be for a gateway before us
        both = bearer, headers.get(b"x-api-key", b"")
        valid = [hmac.compare_digest(given, key) for given in both for key in self._keys]
        if not sum(valid):  # all were compared, in the same time
            raise Unauthorized("this service needs an API key: Authorization: Bearer KEY, or x-api-key: KEY")

    def _counted(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """Returns `receive`, which raises the error of a body that is too long."""
        most, message = self.body_bytes, f"the body is longer than {self.body_bytes} bytes"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > most:
            raise TooLarge(message)
        left = most

        async def counted() -> Message:
            nonlocal left
            received = await receive()
            left -= len(received.get("body", b""))
            if left < 0:  # the frameworks behind turn any other error into one of their own
                raise HTTPException(TooLarge.status, message)
            return received

        return counted

    def _observe(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        route, state = _route(scope), scope["state"]
        self.metrics.requests.labels(route, str(status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        facts = {"route": route, "method": method, "status": status, "ms": round(seconds * 1e3, 2)}
        if error_type := state.get("error_type") or ("client_left" if status == CLIENT_LEFT else None):
            self.metrics.rejected.labels(route, error_type).inc()
            facts["error_type"] = error_type
        logger.info("request", extra={"request_id": state["request_id"], **facts})


def _route(scope: Scope) -> str:
    """Returns the path of the route that a request asks for, or "none" where the app has no such route.

    A request that is refused here has not come to the app's routes, so they are asked for it.
    """
    if (route := scope.get("route")) is None and (app := scope.get("app")) is not None:
        found = {each.matches(scope)[0]: each for each in reversed(app.routes)}  # the first of each kind
        route = found.get(Match.FULL) or found.get(Match.PARTIAL)  # the second: of another method
    return str(getattr(route, "path", "none"))


def _request_id(given: bytes) -> str:
    """Returns the id of a request: the caller's, or a new one where that cannot be written down."""
    try:
        text = given.decode()[:LONGEST_ID].strip()  # a header has no space at its end
    except UnicodeDecodeError:
        text = ""
    return text if text and text.isprintable() else uuid.uuid4().hex


def error_response(
    status: int, error_type: str, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Returns an error as all errors are: {"error", "error_type"}."""
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "…"
    return JSONResponse({"error": message, "error_type": error_type}, status, headers)
