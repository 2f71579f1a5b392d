"""The HTTP protocol of the server: a request's head has a bound and asks for no other protocol, and an answer
leaves as one piece.

uvicorn's parser alone takes headers without end, key or no key. It reads no body where a request asks for
another protocol, as Java's client does in each of its first requests (`Upgrade: h2c`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gliclass_fast.serving.joined_writes import JoinedWrites

HEAD_BYTES = 64 * 1024  # of the first line, the headers and the trailers of a request


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 and closes the connection where a request has more than HEAD_BYTES beside its body.

    A request that asks for another protocol is answered as any other: RFC 9110 (7.8) leaves that to a server.
    """

    _head = 0  # bytes of the request's first line and headers so far
    _silent = 0  # bytes since the parser last told of anything: it keeps them, as a part of one header

    def connection_made(self, transport: Any) -> None:
        """Begins to read from a client."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Takes what came from the client."""
        self._silent += len(data)
        self._unset_keepalive_if_required()
        try:
            self._read(data)
        except httptools.HttpParserError:
            self.logger.warning("what is no HTTP was refused")
            self.send_400_response("this is no request of HTTP")
        if self._silent > HEAD_BYTES and not self.transport.is_closing():
            self.logger.warning("a header without an end was refused")
            self._refuse()

    def _read(self, data: bytes | memoryview) -> None:
        """Parses data; a head that asks for another protocol is parsed again without that."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:  # the parser takes what follows for a new request
                data = memoryview(data)[upgrade.args[0] :]
            version = self.parser.get_http_version().encode()
            lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
            lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            # another parser, as this one reads no more of a connection that is not kept alive
            self.parser = httptools.HttpRequestParser(self)
            with suppress(AttributeError):  # as uvicorn does, for httptools before 0.6.3
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(b"\r\n".join((*lines, b"", b"")))

    def on_message_begin(self) -> None:
        """Starts to count for another request."""
        self._head = self._silent = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Takes a part of the first line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header."""
        self._count(len(name) + len(value) + 4)  # a colon, a space and the end of the line
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begins to answer, unless the head is parsed again."""
        if self.parser.get_method() == b"CONNECT":
            raise ValueError("what follows is for another host; send_400_response is called")
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Ends a request, unless its head is parsed again."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body, which `Access` counts."""
        self._silent = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Ends an answer, which leaves before the event loop turns to another one."""
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser gave up."""
        if self._head > HEAD_BYTES:
            self._refuse()
        else:
            self._end(b"400 Bad Request", "invalid", msg)

    def _count(self, size: int) -> None:
        self._silent = 0
        self._head += size
        if self._head > HEAD_BYTES:
            raise ValueError("the parser gives up at an error, and send_400_response is called")

    def _refuse(self) -> None:
        if self.cycle and not self.cycle.response_complete and not self.cycle.more_body:
            self.transport.close()  # the client waits for the answer to an earlier request
            return
        message = f"the headers are longer than {HEAD_BYTES} bytes"
        self._end(b"431 Request Header Fields Too Large", "too_large", message)

    def _end(self, status: bytes, error_type: str, message: str) -> None:
        """Answers with an error and closes the connection."""
        body = json.dumps({"error": message, "error_type": error_type}).encode()
        lines = (
            b"HTTP/1.1 " + status,
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
        )
        self.transport.write(b"\r\n".join((*lines, b"", body)))
        self.transport.close()
