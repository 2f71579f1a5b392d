"""The headers that a client sends with every request, checked before the first: some can never be sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(rb"([^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?")  # RFC 9110, 5.5


def checked_headers(api_key: str | None, headers: Mapping[str, str | bytes]) -> dict[str, bytes]:
    """Returns the headers of every request; those that are given count more than that of the key.

    White space around the key does not count, as a file that holds it may end with a line end.

    Raises ValueError for a key or a header that HTTP cannot hold; its message repeats no value, which may be
    a secret.
    """
    found: dict[str, bytes] = {}
    if api_key is not None:
        key = _value(api_key.strip(), "api_key")
        if not key:
            raise ValueError("api_key is empty: give a key, or None")
        found["Authorization"] = b"Bearer " + key
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"headers: {name!r} is no name of a header")
        if name.lower() == "authorization":
            found.pop("Authorization", None)
        found[name] = _value(value, f"headers[{name!r}]")
    return found


def _value(given: str | bytes, name: str) -> bytes:
    try:
        value = given.encode() if isinstance(given, str) else given
    except UnicodeEncodeError:
        raise ValueError(f"{name} is not valid text") from None
    if not _VALUE.fullmatch(value):
        raise ValueError(f"{name} has a control character, as a line end, or white space around it")
    return value
