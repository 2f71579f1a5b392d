"""A transport that sends the pieces of an answer as one."""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """Holds what is written to a transport until `flush`, or until the turn of the event loop ends.

    uvicorn writes the head and the body of an answer one by one: two system calls, and two packets that wake
    the client. Each also gives up Python's lock, for which a lane may be waiting.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))

    def close(self) -> None:
        self.flush()
        self._transport.close()
