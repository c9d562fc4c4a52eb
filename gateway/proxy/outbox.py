"""Writes of one turn of the event loop, handed to the kernel together at its end.

Every write may wake the process behind the socket, and waking one costs more than the write itself. Under load a turn
reads from dozens of sockets; writing to all their peers in one go wakes each of them once, not once per message. When
only one message is under way nothing is held back: its turn ends at once. Order per connection is the order of calls.
Behind the writes come the books: nobody waits for an answer until it is counted and logged, and both cost least done
for many requests at a time. It is still the same turn: whoever asks next is told of all that ended before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.core.types import Record


class Outbox:
    """What is left to be done when this turn of the loop ends: writes, closing of connections behind them, books."""

    __slots__ = ("_book", "_ended", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, book: Callable[[list[Record]], None]) -> None:
        self._loop = loop
        self._book = book
        self._waiting: list[tuple[asyncio.Transport, bytes]] = []
        self._ended: list[Record] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write at the end of this turn."""
        waiting = self._waiting
        if not waiting and not self._ended:
            self._loop.call_soon(self.flush)
        waiting.append((transport, data))

    def close(self, transport: asyncio.Transport) -> None:
        """Close when everything written before has been handed over."""
        self.write(transport, b"")

    def ended(self, record: Record) -> None:
        """Book a request that has ended; its record changes no more."""
        ended = self._ended
        if not ended and not self._waiting:
            self._loop.call_soon(self.flush)
        ended.append(record)

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
        ended = self._ended
        if ended:
            self._ended = []
            self._book(ended)
