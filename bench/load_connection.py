"""A connection of HTTP/1.1 that is kept alive and costs its caller little processor time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply is what a server answered; the names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection carries one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connects; raises OSError where nobody listens."""
        return cls(*await asyncio.open_connection(host, port))

    def send(self, request: bytes) -> None:
        """Sends the bytes of a whole request, head and body."""
        self._writer.write(request)

    async def receive(self) -> Reply:
        """Returns the reply; raises EOFError or OSError where the server leaves first."""
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        chunked = headers.get("transfer-encoding", "") == "chunked"
        length = int(headers.get("content-length", 0))
        body = await (self._chunks() if chunked else self._reader.readexactly(length))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(int(first.split(" ", 2)[1]), headers, body)

    async def _chunks(self) -> bytes:
        parts = []
        while True:
            length = int(await self._reader.readuntil(b"\r\n"), 16)
            parts.append((await self._reader.readexactly(length + 2))[:-2])
            if not length:
                return b"".join(parts)

    @property
    def closed(self) -> bool:
        """Tells whether either side has closed it, as far as is known here."""
        return self._writer.is_closing() or self._reader.at_eof()

    def close(self) -> None:
        """Leaves at once: what was sent stays unanswered, and the server sees a client that left."""
        self._writer.transport.abort()
