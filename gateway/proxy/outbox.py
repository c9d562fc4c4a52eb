"""Writes of one turn of the event loop, handed to the kernel together at its end.

Every write may wake the process behind the socket, and waking one costs more than the write itself. Under load a turn
reads from dozens of sockets; writing to all their peers in one go wakes each of them once, not once per message. When
only one message is under way nothing is held back: its turn ends at once. Order per connection is the order of calls.
"""

from __future__ import annotations

import asyncio


class Outbox:
    """What is to be written, and which connections are to be closed behind it, when this turn of the loop ends."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write at the end of this turn."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append((transport, data))

    def close(self, transport: asyncio.Transport) -> None:
        """Close when everything written before has been handed over."""
        self.write(transport, b"")

    def flush(self) -> None:
        """Hand everything over now."""
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if transport.is_closing():
                continue
            if data:
                transport.write(data)
            else:
                transport.close()
