"""Addresses of connections, as controls count them."""

from __future__ import annotations

import ipaddress


def network(address: str) -> str:
    """Return the address; of IPv6 its network of 64 bits, all of which one household has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
