"""Whose address a request comes from, where proxies that are trusted say so, and which addresses count as one.

Only addresses are looked at: what `X-Forwarded-For` holds left of the first address that nobody trusts, a client wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


def client_of(peer: str, forwarded: str, trusted: Sequence[Network]) -> str:
    """The address of the client behind a connection from `peer`, read from the right of `X-Forwarded-For`.

    Without trusted networks, or from a peer in none of them, it is the peer's. An IPv6 address stands for its /64, of
    which one customer has all.

    >>> from ipaddress import ip_network
    >>> client_of("10.0.0.2", "6.6.6.6, 203.0.113.9, 10.0.0.1", [ip_network("10.0.0.0/8")])
    '203.0.113.9'
    """
    found = _address(peer)
    if found is None:
        return peer
    for hop in reversed(forwarded.split(",")) if trusted and forwarded else ():
        if not any(found in network for network in trusted):
            break
        before = _address(hop.strip())
        if before is None:
            break
        found = before
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, 64), strict=False))
    return str(found)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, without the port or brackets that some proxies write; None for what is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


class Strangers:
    """How often addresses came without a valid key: a bucket for each, which holds a minute's worth and fills evenly.

    Never has more than `most` addresses; then those that have waited long enough are forgotten, or all.
    """

    def __init__(self, most: int = 4_096) -> None:
        self._most = most
        self._free_at: dict[str, float] = {}

    def wait_s(self, address: str, per_minute: int, now: float) -> float:
        """Count one more, and how long it is too early; 0 for one that is in time. What is too early does not count."""
        interval = 60.0 / per_minute
        free_at = max(self._free_at.get(address, 0.0), now)
        early = free_at - now - 60.0 + interval
        if early > 1e-9:
            return early
        if len(self._free_at) >= self._most and address not in self._free_at:
            self._free_at = {one: at for one, at in self._free_at.items() if at > now}
            if len(self._free_at) >= self._most:
                self._free_at = {}
        self._free_at[address] = free_at + interval
        return 0.0
