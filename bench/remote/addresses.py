"""The addresses of a target's host, resolved once; connections go to these and to no others."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from bench.errors import UsageError

Resolve = Callable[[str, int], tuple[str, ...]]
"""Addresses of a host for a port, as texts; raises UsageError if there are none."""


def resolve(host: str, port: int) -> tuple[str, ...]:
    """Return the addresses that the system's resolver gives, each once, in its order."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        infos = []
    found = dict.fromkeys(str(info[4][0]) for info in infos)
    if not found:
        raise UsageError(
            f"the host {host} has no address; check url, and whether this machine can resolve names"
        )
    return tuple(found)


def is_loopback(address: str) -> bool:
    """Return whether an address is one of this machine, and of no network."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_loopback
