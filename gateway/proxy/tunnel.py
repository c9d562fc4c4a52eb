"""Opening a connection to an endpoint: straight or through an egress proxy, plain or with TLS."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from typing import TypeVar, cast
from urllib.parse import urlsplit

from gateway.core.types import Endpoint

P = TypeVar("P", bound=asyncio.Protocol)


async def open_connection(
    loop: asyncio.AbstractEventLoop,
    endpoint: Endpoint,
    proxy: str | None,
    tls: ssl.SSLContext | None,
    factory: Callable[[], P],
) -> P:
    """Connect to an endpoint, through an egress proxy and TLS where configured. Raises OSError or ssl.SSLError."""
    name = endpoint.host if tls is not None else None
    if proxy is None:
        _, connection = await loop.create_connection(
            factory, endpoint.host, endpoint.port, ssl=tls, server_hostname=name
        )
        return connection
    where = urlsplit(proxy)
    _, tunnel = await loop.create_connection(lambda: _Tunnel(loop), where.hostname or "", where.port or 3128)
    try:
        await tunnel.connect(endpoint, where.username, where.password)
        connection = factory()
        transport = tunnel.transport
        if tls is not None:
            secured = await loop.start_tls(transport, connection, tls, server_hostname=name)
            if secured is None:
                raise ConnectionResetError("the proxy closed the tunnel")
            transport = secured
        else:
            transport.set_protocol(connection)
        connection.connection_made(transport)  # neither call above tells the protocol of its transport
    except BaseException:
        if tunnel.transport is not None:
            tunnel.transport.abort()
        raise
    return connection


class _Tunnel(asyncio.Protocol):
    """Speaks CONNECT to an egress proxy and then steps aside."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self._answer: asyncio.Future[None] = loop.create_future()
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    async def connect(self, endpoint: Endpoint, user: str | None, password: str | None) -> None:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        authority = f"{host}:{endpoint.port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if user is not None:
            token = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {token}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode())
        await self._answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if self._answer.done():
            return
        if end < 0:
            if len(self._buffer) > 8192:
                self._answer.set_exception(ConnectionRefusedError("the egress proxy answered nonsense"))
            return
        status = self._buffer.split(b" ", 2)[1:2]
        if status != [b"200"] or len(self._buffer) != end + 4:
            self._answer.set_exception(ConnectionRefusedError("the egress proxy refused the tunnel"))
        else:
            self._answer.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the egress proxy closed the connection"))
