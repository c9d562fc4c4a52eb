"""Connections of the admin listener: uvicorn's own protocol, with the one deadline that it lacks.

A request that does not arrive whole is not waited for without end. All else is uvicorn's, and what is answered is
`control`'s.
"""

from __future__ import annotations

from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.proxy.clocks import NEVER, Timed
from gateway.proxy.runtime import Runtime


class AdminConnection(Timed, HttpToolsProtocol):
    """One connection. From the first byte of a request to its last there is `request_head_s`: bodies here are small."""

    def __init__(self, runtime: Runtime, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        Timed.__init__(self)
        HttpToolsProtocol.__init__(self, config, server_state, app_state, runtime.loop)
        self.runtime = runtime

    def connection_made(self, transport: Any) -> None:
        """asyncio's callback."""
        HttpToolsProtocol.connection_made(self, transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        self.due = NEVER
        HttpToolsProtocol.connection_lost(self, exc)

    def data_received(self, data: bytes) -> None:
        """asyncio's callback."""
        if self.due == NEVER and (self.cycle is None or self.cycle.response_complete):
            self._arm()
        HttpToolsProtocol.data_received(self, data)

    def on_message_complete(self) -> None:
        """llhttp's callback: the request is whole; its answer may take as long as it takes."""
        self.due = NEVER
        HttpToolsProtocol.on_message_complete(self)

    def on_due(self, now: float) -> None:
        """The request did not arrive in time."""
        self.transport.abort()

    def _arm(self) -> None:
        self.runtime.wheel.arm(self, self.runtime.serving.site.limits.request_head_s)
