"""The address at which a service listens: whether it is free, and how it is written."""

from __future__ import annotations

import errno
import socket

# A name may have an address of IPv6 where the machine has none, or has IPv6 switched off.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def address_of(host: str, port: int) -> str:
    """Returns the address of a service that listens at a host, whose name or number may be of IPv6."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_free(host: str, port: int) -> None:
    """Raises OSError, which has the address, where nobody can listen at it: most often somebody does."""
    not_here = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in found:
            try:
                socket.create_server(address, family=family).close()
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                not_here.append(error)
        if len(not_here) == len(found):
            raise not_here[0]
    except OSError as error:
        raise cannot_listen(host, port, error) from None


def cannot_listen(host: str, port: int, reason: object) -> OSError:
    """Returns the error of an address at which nobody can listen."""
    return OSError(f"the service cannot listen at {address_of(host, port)}: {reason}")
