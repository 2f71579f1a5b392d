"""The HTTP protocol of the server: a request's head has a bound and asks for no other protocol, and an answer
leaves as one piece.

uvicorn's parser alone takes headers without end, key or no key. It reads no body where a request asks for
another protocol, as Java's client does in each of its first requests (`Upgrade: h2c`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gliclass_fast.serving.access import error_response
from gliclass_fast.serving.joined_writes import JoinedWrites

HEAD_BYTES = 64 * 1024  # of the first line, the headers and the trailers of a request


class BoundedHttpProtocol(HttpToolsProtocol):
    """Answers 431 and closes the connection where a request has more than HEAD_BYTES beside its body.

    Requests that came whole before such a one, or before what is no HTTP, are answered first.
    A request that asks for another protocol is answered as any other: RFC 9110 (7.8) leaves that to a server.
    """

    _head = 0  # bytes of the request's first line and headers so far
    _silent = 0  # bytes since the parser last told of anything: it keeps them, as a part of one header
    _refused = False  # whether nothing more is read

    def connection_made(self, transport: Any) -> None:
        """Begins to read from a client."""
        super().connection_made(JoinedWrites(transport, self.loop))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        """Takes what came from the client."""
        if self._refused:
            return
        self._silent += len(data)
        self._unset_keepalive_if_required()
        try:
            self._read(data)
        except httptools.HttpParserError:
            self.logger.warning("what is no HTTP was refused")
            self.send_400_response("this is no request of HTTP")
        if self._silent > HEAD_BYTES and not self._refused:
            self.logger.warning("a header without an end was refused")
            self._refuse_head()

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
            self._refuse_head()
        else:
            self._refuse(400, "invalid", msg)

    def _count(self, size: int) -> None:
        self._silent = 0
        self._head += size
        if self._head > HEAD_BYTES:
            raise ValueError("the parser gives up at an error, and send_400_response is called")

    def _refuse_head(self) -> None:
        self._refuse(431, "too_large", f"the headers are longer than {HEAD_BYTES} bytes")

    def _refuse(self, status: int, error_type: str, message: str) -> None:
        """Answers with an error and closes the connection, once earlier requests have their answers."""
        self._refused = True
        if self.cycle and not self.cycle.response_complete and not self.cycle.more_body:
            self.cycle.keep_alive = False  # what follows the last whole request gets no answer
            return
        response: Any = error_response(status, error_type, message, {"connection": "close"})
        if self.pipeline:
            self.pipeline[0] = self.cycle, response  # in place of the app, which did not begin
            return
        head = b"".join(b"%b: %b\r\n" % each for each in response.raw_headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(response.body))
        self.transport.close()
