"""The server: one process that answers over HTTP, and that ends without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.listening import address_of, cannot_listen, check_free
from gliclass_fast.serving.service import Service
from gliclass_fast.serving.settings import Placement, ServeSettings

logger = logging.getLogger(__name__)

# once all that waited is answered: for clients that still read an answer, or have sent half a request
LAST_SECONDS = 5
# An idle connection stays open for so long: longer than most clients and load balancers keep theirs, which is
# up to 60 s. A server that closes first may be sent a request at that very moment, which is then lost.
KEEP_ALIVE_SECONDS = 75
# Between two kernels a lane needs Python's lock, which the event loop may have: for so long at
# most. In Python's 5 ms the cores would have nothing to do while requests are read and answers written.
SWITCH_SECONDS = 0.0005


class Server(uvicorn.Server):
    """Answers until a signal comes; then what waits is answered, and the process ends with code 0."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        """Binds the address and says so in the log: the line with "event": "ready"."""
        try:
            await super().startup(sockets)
        except SystemExit as error:  # its context is the reason
            raise cannot_listen(self.config.host, self.config.port, error.__context__) from None
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            facts = {"address": address_of(host, port), "service": self._service.information()}
            logger.info("ready", extra=facts)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles SIGHUP as SIGTERM, as the terminal may close, unless it is ignored, as under nohup."""
        with super().capture_signals():
            known = hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread()
            if not known or signal.getsignal(signal.SIGHUP) != signal.SIG_DFL:
                yield
                return
            signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drains at the first signal, and ends the process at once at a second SIGTERM or SIGINT."""
        if self._ending is None:
            # before the line of the log, during which the second signal may come
            self._ending = asyncio.get_running_loop().create_task(self._drain())
            logger.info("draining", extra={"signal": sig})
            return
        # of a terminal that closes, both a shell and the system send one
        if sig == getattr(signal, "SIGHUP", None):
            return
        # the interpreter must not end in order, as a lane may be in the midst of a batch; and to write a log
        # that nobody reads may last for ever
        last = threading.Timer(1.0, os._exit, (128 + sig,))
        last.daemon = True
        last.start()
        try:
            logger.warning("ended at once", extra={"signal": sig})
            logging.shutdown()
        finally:
            os._exit(128 + sig)

    async def _drain(self) -> None:
        await self._service.drain()
        self.should_exit = True


def run(settings: ServeSettings, placement: Placement) -> None:
    """Loads the model and serves it until SIGTERM, SIGINT or SIGHUP; raises what `create_app` raises.

    Raises OSError where the address cannot be bound, before the model is loaded.
    """
    check_free(placement.host, placement.port)
    app = create_app(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    Server(config_of(app, placement), app.state.service).run()


def config_of(app: FastAPI, placement: Placement) -> uvicorn.Config:
    """Returns how an app is served."""
    http: Any = "auto"
    with contextlib.suppress(ImportError):  # without httptools uvicorn takes h11, which has such a bound
        from gliclass_fast.serving.http_protocol import BoundedHttpProtocol

        http = BoundedHttpProtocol
    return uvicorn.Config(
        app, placement.host, placement.port, http=http, ws="none", log_config=None, access_log=False,
        server_header=False, timeout_graceful_shutdown=LAST_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )  # fmt: skip
