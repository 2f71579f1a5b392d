"""The replica: the app of a service in a process of Ray Serve's, one of several behind one address."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gliclass_fast.serving.errors import Invalid, in_a_line
from gliclass_fast.serving.python_values import plain_arguments
from gliclass_fast.serving.ray_drain import listen_for_end
from gliclass_fast.serving.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Message, Receive, Scope, Send

    from gliclass_fast.serving.service import Service

logger = logging.getLogger(__name__)

AppFactory = Callable[[ServeSettings], "FastAPI"]


def service_app(settings: ServeSettings) -> FastAPI:
    """Returns the app of a service; raises what `create_app` raises."""
    from gliclass_fast.serving.app import create_app  # imports torch, which only a replica needs

    return create_app(settings)


@dataclass(frozen=True, slots=True)
class Logs:
    """Holds how a replica logs: from which level, and to whose socket; None: its standard error."""

    level: str
    socket: str | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Holds what a replica knows of the process that started it."""

    logs: Logs | None = None  # None: as Ray has it
    folder: Path | None = None  # of this machine, where it listens until it has drained


def _answer_in_one_piece() -> None:
    """Has the server that Ray starts next take our protocol.

    A head that left without its body cannot be taken back: where the replica is killed between them, no other
    one can answer in its place.
    """
    with suppress(ImportError):  # without httptools
        from uvicorn.protocols.http import auto

        from gliclass_fast.serving.http_protocol import BoundedHttpProtocol

        vars(auto)["AutoHTTPProtocol"] = BoundedHttpProtocol


class Replica:
    """Answers with one model, over HTTP through its app, and to the handles of Ray.

    It is what `serve.ingress` wraps: the model is loaded where Ray starts a replica, and the app's lifespan
    answers what waits where Ray stops one.
    """

    def __init__(
        self, settings: ServeSettings, build_app: AppFactory, surroundings: Surroundings | None = None
    ) -> None:
        """Takes what the app is made of."""
        self._surroundings = surroundings or Surroundings()
        if self._surroundings.logs is not None:
            from gliclass_fast.serving.ray_logs import use_json_of_replica

            use_json_of_replica(self._surroundings.logs)
        self._settings, self._build_app = settings, build_app

    def __serve_build_asgi_app__(self) -> Callable[..., Any]:
        """Loads the model and returns the app; Ray calls it once, in the event loop."""
        try:
            app = self._build_app(self._settings)
        except Exception as error:  # Ray tries again, and says nothing meanwhile
            logger.error("the replica cannot start", extra={"pid": os.getpid(), "reason": str(error)})
            raise
        self.service: Service = app.state.service
        if self._surroundings.folder is not None:
            listen_for_end(self._surroundings.folder, self.service.drain)
        logger.info("replica", extra={"pid": os.getpid(), "service": self.service.information()})
        _answer_in_one_piece()
        return _WithoutRequestId(app)

    async def predict(
        self,
        text: str | list[str],
        labels: Any,
        threshold: float | None = None,
        multi_label: bool | list[bool] = True,
        examples: list[Any] | None = None,
        prompt: str | list[str] | None = None,
        adapter_id: str | None = None,
        model: str | None = None,
    ) -> list[Any]:
        """Returns the predictions {"label", "score"} of a text, or such a list for each of several.

        Tuples and arrays count as lists. Raises RequestError.
        """
        from pydantic import ValidationError

        from gliclass_fast.serving.faults import faults
        from gliclass_fast.serving.formats import GLiClassBody

        try:
            arguments = plain_arguments(
                texts=text, labels=labels, threshold=threshold, multi_label=multi_label, examples=examples,
                prompt=prompt, adapter_id=adapter_id, model=model,
            )  # fmt: skip
            body = GLiClassBody(**arguments)
        except ValidationError as error:
            raise Invalid(in_a_line(faults(error.errors()))) from None
        answer = await self.service.answer(body.arguments(self._settings))
        found: list[Any] = body.answered(answer)
        return found


class _WithoutRequestId:
    """Leaves out the header x-request-id, which Ray adds to every answer itself: the same id."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def without(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [each for each in message["headers"] if each[0] != b"x-request-id"]
            await send(message)

        await self._app(scope, receive, without if scope["type"] == "http" else send)
