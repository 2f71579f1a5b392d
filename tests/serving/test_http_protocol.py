"""The HTTP protocol: what is written to a client in one turn of the event loop goes out as one piece."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from gliclass_fast.serving import http_protocol
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.http_protocol import BoundedHttpProtocol
from gliclass_fast.serving.joined_writes import JoinedWrites
from gliclass_fast.serving.server import Server, config_of
from gliclass_fast.serving.settings import Placement, ServeSettings
from tests.serving.running import in_a_thread


class Transport:
    """Notes what is done to it."""

    def __init__(self) -> None:
        self.did: list[Any] = []
        self.ended = False

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.did.append(data)

    def close(self) -> None:
        self.did.append("close")

    def is_closing(self) -> bool:
        return self.ended


async def turn() -> None:
    await asyncio.sleep(0)


def joined() -> tuple[JoinedWrites, Transport]:
    transport: Any = Transport()
    return JoinedWrites(transport, asyncio.get_running_loop()), transport


def test_writes_of_a_turn_are_one() -> None:
    async def check() -> None:
        writes, transport = joined()
        writes.write(b"head ")
        writes.write(b"body")
        assert transport.did == []
        await turn()
        assert transport.did == [b"head body"]
        writes.write(b"next")
        await turn()
        assert transport.did == [b"head body", b"next"]

    asyncio.run(check())


def test_all_is_written_before_the_end() -> None:
    async def check() -> None:
        writes, transport = joined()
        writes.write(b"last")
        writes.close()
        await turn()
        assert transport.did == [b"last", "close"]

    asyncio.run(check())


def test_nothing_is_written_for_a_client_that_left() -> None:
    async def check() -> None:
        writes, transport = joined()
        writes.write(b"late")
        transport.ended = True
        await turn()
        assert transport.did == [] and writes.is_closing()

    asyncio.run(check())


def test_what_is_flushed_does_not_wait() -> None:
    async def check() -> None:
        writes, transport = joined()
        writes.write(b"head ")
        writes.write(b"body")
        writes.flush()
        assert transport.did == [b"head body"]
        await turn()
        assert transport.did == [b"head body"]

    asyncio.run(check())


def test_an_answer_goes_out_as_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written before the event loop turns to anything else."""
    pieces: list[bytes] = []

    class Noted(JoinedWrites):
        def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(Noting(transport), loop)  # type: ignore[arg-type]

    class Noting:
        def __init__(self, transport: Any) -> None:
            self._transport = transport

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transport, name)

        def write(self, data: bytes) -> None:
            pieces.append(data)
            self._transport.write(data)

    ended = BoundedHttpProtocol.on_response_complete

    def end(protocol: BoundedHttpProtocol) -> None:
        assert pieces == []
        ended(protocol)
        assert len(pieces) == 1

    monkeypatch.setattr(http_protocol, "JoinedWrites", Noted)
    monkeypatch.setattr(BoundedHttpProtocol, "on_response_complete", end)
    app = create_app(ServeSettings(device="cpu"))
    with in_a_thread(Server(config_of(app, Placement(port=0)), app.state.service)) as port:
        answer = httpx2.get(f"http://127.0.0.1:{port}/health")
    app.state.service.draining = True
    [piece] = pieces
    assert piece.startswith(b"HTTP/1.1 200") and piece.endswith(answer.content) and answer.content
