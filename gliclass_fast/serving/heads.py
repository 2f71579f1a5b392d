"""The head of a request has a bound: uvicorn's parser alone takes headers without end, key or no key."""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024  # of the first line, the headers and the trailers of a request


class BoundedHeads(HttpToolsProtocol):
    """Answers 431 and closes the connection where a request has more than HEAD_BYTES beside its body."""

    _head = 0  # bytes of the request's first line and headers so far
    _silent = 0  # bytes since the parser last told of anything: it keeps them, as a part of one header

    def data_received(self, data: bytes) -> None:
        """Takes what came from the client."""
        self._silent += len(data)
        super().data_received(data)
        if self._silent > HEAD_BYTES and not self.transport.is_closing():
            self.logger.warning("a header without an end was refused")
            self._refuse()

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

    def on_body(self, body: bytes) -> None:
        """Takes a part of the body, which `Access` counts."""
        self._silent = 0
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser gave up."""
        if self._head > HEAD_BYTES:
            self._refuse()
        else:
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self._silent = 0
        self._head += size
        if self._head > HEAD_BYTES:
            raise ValueError("the parser gives up at an error, and send_400_response is called")

    def _refuse(self) -> None:
        message = f"the headers are longer than {HEAD_BYTES} bytes"
        if self.cycle and not self.cycle.response_complete and not self.cycle.more_body:
            self.transport.close()  # the client waits for the answer to an earlier request
            return
        body = json.dumps({"error": message, "error_type": "too_large"}).encode()
        lines = (
            b"HTTP/1.1 431 Request Header Fields Too Large",
            b"content-type: application/json",
            b"content-length: %d" % len(body),
            b"connection: close",
        )
        self.transport.write(b"\r\n".join((*lines, b"", body)))
        self.transport.close()
