"""Connecting to one node, and seeing that it may be used.

When that is tried is in `breaker` and `elsewhere`. TLS and credentials are the same for every node: one that others
name is trusted no more than the one that is configured.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable

from gateway.stores.link import Gone, Link, Sent
from gateway.stores.nodes import Node
from gateway.stores.resp import Reply, Said, command
from gateway.stores.settings import StoreSettings

#: A handshake of TLS takes more than one round trip, and no request waits for it.
TLS_S = 2.0


class Unfit(Exception):
    """A server that is there and must not be used."""


#: What is in the way of using a node. The last two: what another one named cannot be an address.
WHY_NOT = (OSError, TimeoutError, Gone, Said, Unfit, OverflowError, ValueError)


class Reaching:
    """How a node of one store is reached."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: StoreSettings) -> None:
        self.within_s = TLS_S if settings.tls else settings.timeout_s
        self._loop = loop
        self._settings = settings
        self._tls = ssl.create_default_context(cafile=settings.ca_file) if settings.tls else None

    async def connect(
        self, node: Node, lost: Callable[[Gone], None], sent_on: Callable[[Said, Sent], None] | None = None
    ) -> Link:
        """A connection to a node that let us in and may be used. Raises what is in `WHY_NOT`."""
        settings = self._settings
        async with asyncio.timeout(self.within_s):
            _, link = await self._loop.create_connection(
                lambda: Link(self._loop, settings.timeout_s, lost, sent_on), *node, ssl=self._tls
            )
        try:
            if settings.password is not None:
                user = () if settings.username is None else (settings.username.encode(),)
                await link.ask(0, command(b"AUTH", *user, settings.password.reveal().encode()))
            if settings.database:
                await link.ask(0, command(b"SELECT", settings.database))
            see_fit(await link.ask(0, command(b"INFO", b"memory")))
            link.server = which(await link.ask(0, command(b"INFO", b"server")))
        except BaseException:
            link.end(Gone("unfit"))
            raise
        return link


def see_fit(told: Reply) -> None:
    """Raises Unfit where what is kept there may be thrown away."""
    found = re.search(rb"^maxmemory_policy:(\S+)", told if isinstance(told, bytes) else b"", re.MULTILINE)
    if found is not None and found[1] != b"noeviction":
        raise Unfit(f"its maxmemory-policy is {found[1].decode('ascii', 'replace')}: it must be noeviction")


def which(told: Reply) -> int:
    """Which server it is, since it was started, as a number that Lua can hold; 0 where it does not say."""
    found = re.search(rb"^run_id:([0-9a-f]{12})", told if isinstance(told, bytes) else b"", re.MULTILINE)
    return 0 if found is None else 2 + int(found[1], 16)


def text(error: Exception) -> str:
    """Why, for a log."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)[:200] or type(error).__name__
