"""The app: the routes of a service, and what each answers."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from gliclass_fast import __version__
from gliclass_fast.serving.access import CLIENT_LEFT, Access, error_response
from gliclass_fast.serving.answer_models import ClassifyAnswer, Predictions, Ranked
from gliclass_fast.serving.errors import Broken, Draining, RequestError, in_a_line
from gliclass_fast.serving.faults import faults
from gliclass_fast.serving.formats import (
    ClassifyBody,
    GLiClassBody,
    HuggingFaceBody,
    PredictBody,
    RerankBody,
)
from gliclass_fast.serving.service import Answer, Service
from gliclass_fast.serving.settings import ServeSettings

PAGE = Path(__file__).parent / "page" / "index.html"
MADE_AT_ONCE = 5_000  # predictions up to which the event loop itself makes the JSON of an answer
OWN_ROUTES = (
    "/classify", "/predict", "/rerank", "/health", "/ready", "/info", "/metrics", "/adapter-cache", "/docs",
    "/openapi.json",
)  # fmt: skip
PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)+")  # nothing that is quoted in a path, or is a pattern
NAMES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid_json"}
ERRORS: dict[int | str, Any] = {
    status: {
        "description": text,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}, "error_type": {"type": "string"}},
                }
            }
        },
    }
    for status, text in {
        401: "There is no valid API key.",
        404: "The model or the adapter is unknown.",
        413: "The body or a text is too long.",
        422: "What the request asks for is not valid.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "The service failed; its log says why.",
        503: "The service is about to end, or its engine is broken.",
        504: "The time of the request passed.",
    }.items()
}


def create_app(settings: ServeSettings) -> FastAPI:
    """Loads a model and returns the app that answers with it; raises what `Service` raises.

    The app needs its lifespan: it starts to answer there, and at its end answers all that waits. Meanwhile
    garbage collections leave out what the process held before (`gc.freeze`), until the first app ends.
    """
    prefix = settings.route_prefix.rstrip("/")
    if not PREFIX.fullmatch(prefix) or prefix in OWN_ROUTES:
        raise ValueError(f"route_prefix must be a path beside our own routes, as /gliclass, not {prefix!r}")
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with _long_lived_objects():
            service.start()
            yield
            await service.drain()

    app = FastAPI(
        title="gliclass-fast", version=__version__, lifespan=lifespan, redoc_url=None, responses=ERRORS,
        description="Zero-shot text classification with any labels.",
        redirect_slashes=False,  # behind a proxy the address to go to would be wrong
    )  # fmt: skip
    app.state.service = service
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    _add_classifications(app, service, prefix)
    _add_information(app, service, prefix)
    app.add_middleware(
        Access, metrics=service.metrics, api_keys=settings.api_keys,
        body_bytes=settings.limits.body_bytes, probe=f"{prefix}/-/healthz",
        draining=lambda: service.draining, check_room=service.check_room,
        queued={each.path for each in app.routes if isinstance(each, APIRoute) and each.methods == {"POST"}},
    )  # fmt: skip
    return app


@contextmanager
def _long_lived_objects() -> Iterator[None]:
    """Keeps Python's garbage collector from what there is already: modules, models and tokenizers.

    A full collection looks at all of it, and nothing else runs meanwhile: 0.16 s with 270,000 objects.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _add_classifications(app: FastAPI, service: Service, prefix: str) -> None:
    async def answered(request: Request, body: Any, truncate: bool = True) -> Response:
        work = asyncio.ensure_future(service.answer(body.arguments(service.settings), truncate))
        left = asyncio.ensure_future(_until_left(request))
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
        finally:
            left.cancel()
            if not work.done():
                work.cancel()
        if not work.done():
            return Response(status_code=CLIENT_LEFT)
        answer = work.result()

        def made() -> Response:
            return JSONResponse(body.answered(answer), headers=_headers(answer))

        predictions = sum(len(each.names) for each in answer.call.labels)
        return made() if predictions <= MADE_AT_ONCE else await asyncio.to_thread(made)

    @app.post(f"{prefix}/", include_in_schema=False)
    @app.post(prefix, tags=["classification"], response_model=Predictions)
    async def gliclass(request: Request, body: GLiClassBody) -> Response:
        """Takes what gliclass's client sends."""
        return await answered(request, body)

    @app.post("/classify", tags=["classification"], response_model=ClassifyAnswer)
    async def classify(request: Request, body: ClassifyBody) -> Response:
        """Classifies texts with all that the library has."""
        return await answered(request, body)

    @app.post("/", tags=["classification"], response_model=Predictions)
    async def hugging_face(request: Request, body: HuggingFaceBody) -> Response:
        """Takes Hugging Face's body of zero-shot classification."""
        return await answered(request, body)

    @app.post("/predict", tags=["classification"], response_model=Predictions)
    async def predict(request: Request, body: PredictBody) -> Response:
        """Takes text-embeddings-inference's body of a classification, with the labels of the service."""
        return await answered(request, body, bool(body.truncate))

    @app.post("/rerank", tags=["classification"], response_model=list[Ranked])
    async def rerank(request: Request, body: RerankBody) -> Response:
        """Takes text-embeddings-inference's body of a reranking."""
        return await answered(request, body, bool(body.truncate))


def _add_information(app: FastAPI, service: Service, prefix: str) -> None:
    @app.get(f"{prefix}/-/healthz", include_in_schema=False)
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """Says that the process lives, and that its engine answers."""
        if not service.batcher.healthy:
            raise Broken("the engine fails, or has ended: the log has more")
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"])
    async def ready() -> dict[str, str]:
        """Says whether requests are taken: 503 once the service is about to end."""
        if service.draining:
            raise Draining("the service is about to end")
        return {"status": "ready"}

    @app.get("/info", tags=["operation"])
    async def info() -> dict[str, Any]:
        """Says which model runs, where, with which defaults, and within which limits."""
        return service.information()

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """Gives the metrics in Prometheus' text format."""
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4")

    @app.get(f"{prefix}/adapter-cache", include_in_schema=False)
    @app.get("/adapter-cache", tags=["operation"])
    async def adapter_cache(adapter_id: str | None = None) -> dict[str, Any]:
        """Says which adapters there are, and where one of them is, as gliclass's server does."""
        return service.adapter_cache(adapter_id)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE, media_type="text/html")


async def _until_left(request: Request) -> None:
    """Waits until the client closes its connection; its body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(answer: Answer) -> dict[str, str]:
    headers = {
        "x-queue-ms": f"{answer.queue_seconds * 1e3:.2f}",
        "x-tokenize-ms": f"{answer.tokenize_seconds * 1e3:.2f}",
        "x-forward-ms": f"{answer.forward_seconds * 1e3:.2f}",
        "x-batch-texts": str(max((each.batch_texts for each in answer.done), default=0)),
    }
    if cut := answer.tokens_cut:
        headers["x-tokens-cut"] = str(cut)
    return headers


async def _request_error(request: Request, error: Any) -> Response:
    return _error(request, error.status, error.error_type, str(error), error.headers)


async def _validation_error(request: Request, error: Any) -> Response:
    """Says where a body is not as described, without repeating what the caller sent."""
    found = error.errors()
    kind = "invalid_json" if found[0]["type"] == "json_invalid" else "invalid"  # which comes alone
    return _error(request, 422, kind, in_a_line(_messages(request, found)))


def _messages(request: Request, found: list[dict[str, Any]]) -> Iterator[str]:
    if not _is_json(request.headers.get("content-type", "")):
        yield "send the body as JSON, with Content-Type: application/json"
    first = found[0]
    if first["type"] == "json_invalid":  # which comes alone
        yield from _compressed(request)
        yield f"the body is not valid JSON at character {first['loc'][-1]}: {first['msg']}"
    elif _is_nothing(first):
        yield "the body is empty"
    else:
        yield from faults({**each, "loc": each["loc"][1:]} for each in found)


async def _http_error(request: Request, error: Any) -> Response:
    if isinstance(error.__cause__, ClientDisconnect):
        return Response(status_code=CLIENT_LEFT)
    status, message, headers = error.status_code, str(error.detail), error.headers
    if status == 400:  # a body that cannot be parsed, to the framework
        status, message = 422, _why_not_read(request, error)
    if status == 405:  # the framework names the methods of one of the path's routes
        others = [each for each in request.app.routes if each.matches(request.scope)[0] is Match.PARTIAL]
        methods = {method for each in others for method in each.methods}
        headers = {"allow": ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))}
    return _error(request, status, NAMES.get(status, "invalid"), message, headers)


def _why_not_read(request: Request, error: Any) -> str:
    """Returns why a body could not be parsed."""
    cause = error.__cause__
    if compressed := _compressed(request):
        return compressed[0]
    if isinstance(cause, UnicodeDecodeError):
        return "the body is not UTF-8"
    if isinstance(cause, RecursionError):
        return "the body is nested too deeply"
    if isinstance(cause, ValueError):  # a number of too many digits; the rest is advice for our own code
        return str(cause).partition(";")[0]
    return str(error.detail)


def _compressed(request: Request) -> list[str]:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    return [] if encoding == "identity" else ["compressed bodies are not read"]


def _is_json(content_type: str) -> bool:
    """Returns whether the framework reads a body of this type as JSON."""
    kind, _, name = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (name == "json" or name.endswith("+json"))


def _is_nothing(fault: dict[str, Any]) -> bool:
    return fault["type"] == "missing" and len(fault["loc"]) == 1


def _error(
    request: Request, status: int, error_type: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    request.state.error_type = error_type  # for the log and the metrics
    return error_response(status, error_type, message, headers)
