"""The errors of a service: what a request is answered with where it gets no scores."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

MOST_NAMED = 3  # faults of a body that an answer names; there may be very many


def in_a_line(faults: Iterable[str]) -> str:
    """Returns the first faults as one message; no others are made."""
    return "; ".join(dict.fromkeys(islice(faults, MOST_NAMED)))


class RequestError(Exception):
    """A request that is answered with a status and {"error", "error_type"}."""

    status = 500
    error_type = "internal"

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        """Takes what the answer says, and after how many seconds the caller may try again."""
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Returns the headers of the answer that belong to the error."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}


class Unauthorized(RequestError):
    """There is no API key, or it is not one of the service's."""

    status, error_type = 401, "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        """Returns what every answer of this status names: RFC 9110, 15.5.2."""
        return {"www-authenticate": 'Bearer realm="gliclass-fast"'}


class UnknownName(RequestError):
    """The request names an adapter or a model that the service does not have."""

    status, error_type = 404, "unknown_name"


class TooLarge(RequestError):
    """The body is longer than the service reads, or a text than the request allows."""

    status, error_type = 413, "too_large"


class Invalid(RequestError):
    """What the request asks for is not valid."""

    status, error_type = 422, "invalid"


class QueueFull(RequestError):
    """The queue has no room for the request."""

    status, error_type = 429, "overloaded"


class Draining(RequestError):
    """The service is about to end, and takes no new requests."""

    status, error_type = 503, "draining"


class Broken(RequestError):
    """The engine does not answer any more."""

    status, error_type = 503, "broken"


class DeadlinePassed(RequestError):
    """The time of the request passed before its answer was there."""

    status, error_type = 504, "deadline"
