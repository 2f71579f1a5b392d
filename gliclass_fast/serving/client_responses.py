"""What a client makes of a response: its JSON, its error, and whether to ask again, and when."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

TRY_AGAIN = frozenset({429, 503, 504})  # the queue is full, the service ends or starts, the time is over


class ServeError(Exception):
    """Reports that a service gave no answer, or answered with an error.

    Attributes:
        status: the HTTP status, or None where there was no answer, or none that can be read.
        error_type: a word of the service, as "invalid" or "overloaded"; "timeout" or "connection" where there
            was no answer, the second also where the environment allows no connection; "invalid" also for a
            request that cannot be sent; "unknown" where the service did not say.
        message: what is wrong.
        request_id: what the service's log calls the request, where it answered.
    """

    def __init__(self, status: int | None, error_type: str, message: str, request_id: str | None = None):
        super().__init__(status, error_type, message, request_id)  # what a pickle is made of
        self.status, self.error_type, self.message, self.request_id = status, error_type, message, request_id

    def __str__(self) -> str:
        at = "no answer" if self.status is None else f"status {self.status}"
        of = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({at}, {self.error_type}{of})"


@dataclass(frozen=True, slots=True)
class Retries:
    """Says how often a request is sent again, which is safe as a classification changes nothing.

    It is sent again after a connection that failed and after the status 429, 503 or 504. The wait is random,
    up to a bound that doubles each time; the service's `Retry-After` is the least. Where that is more than
    `longest`, the error comes at once.
    """

    times: int = 5
    first: float = 0.2  # seconds, the bound of the first wait
    longest: float = 10.0  # seconds, the bound of any wait

    def __post_init__(self) -> None:
        """Raises ValueError here for what would fail only after a first failure, and hide it."""
        if not isinstance(self.times, int) or self.times < 0:
            raise ValueError(f"retries are a whole number from 0, not {self.times!r}")
        for name in ("first", "longest"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ValueError(f"{name} of Retries is a number of seconds from 0, not {value!r}")

    def wait(self, attempt: int, least: float = 0.0) -> float | None:
        """Returns the seconds before another attempt, or None where there is none; attempts count from 0."""
        if attempt >= self.times or least > self.longest:
            return None
        return least + random.uniform(0, min(self.longest, self.first * 2.0 ** min(attempt, 60)))


def json_of(response: Any) -> Any:
    """Returns what an answer says; ServeError where that is not JSON."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        message = f"the answer is not JSON: {_text(response)[:200]!r}"
        raise ServeError(response.status_code, "unknown", message) from None


def error_of(response: Any) -> ServeError:
    """Returns the error of an answer, whose body is `{"error", "error_type"}` or, elsewhere, may be any."""
    try:
        body = response.json()
    except (ValueError, RecursionError):
        body = None
    if response.has_redirect_location:
        body = {"error": f"the service has moved to {response.headers['location']}: give that address"}
    if not isinstance(body, dict) or "error" not in body:
        body = {"error": _text(response)[:500].strip() or response.reason_phrase}
    return ServeError(
        response.status_code,
        str(body.get("error_type", "unknown")),
        str(body["error"]),
        response.headers.get("x-request-id"),
    )


def _text(response: Any) -> str:
    """Returns the text of an answer as UTF-8, as its charset may be one that makes no text."""
    return bytes(response.content).decode("utf-8", "replace")


def seconds_until(response: Any) -> float:
    """Returns the seconds of the header Retry-After, which has a number or a date; 0 without one."""
    given = response.headers.get("retry-after", "")
    if given.isdecimal():
        return float(given)
    try:
        until = parsedate_to_datetime(given)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    if until.tzinfo is None:  # "-0000", a moment in UTC
        until = until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())
