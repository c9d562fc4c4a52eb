"""Writes of one turn of the event loop, handed to the kernel together at its end.

Every write may wake the process behind the socket, and waking one costs more than the write itself. Under load a turn
reads from dozens of sockets; writing to all their peers in one go wakes each of them once, not once per message. When
only one message is under way nothing is held back: its turn ends at once. Order per connection is the order of calls.

Before the writes comes the ledger's journal: what is about to be sent upstream, and what an answer has cost whose end
is about to be sent, is on disk before that is on its way. Behind them come counting and logging: nobody waits for an
answer until that is done, and it costs least for many requests at a time. It is still the same turn: whoever asks next
is told of all that ended before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from gateway.core.money.booking import Plain
from gateway.core.types import Record
from gateway.proxy.durable import Durable


def _nowhere(entries: list[Plain]) -> None:
    """What a process does with entries that keeps no ledger."""


class Outbox:
    """What is left to be done when this turn of the loop ends: entries, writes, closing of connections, books.

    Who adds to `entries` also writes or ends something in the same turn; `enter` is for who does not.
    """

    __slots__ = ("_book", "_ended", "_loop", "_waiting", "durable", "entries", "journal")

    def __init__(self, loop: asyncio.AbstractEventLoop, book: Callable[[list[Record]], None]) -> None:
        self._loop = loop
        self._book = book
        self._waiting: list[tuple[asyncio.Transport, bytes | memoryview]] = []
        self._ended: list[Record] = []
        self.entries: list[Plain] = []  # for the journal
        self.durable: Durable | None = None
        self.journal: Callable[[list[Plain]], None] = _nowhere  # writes them; raises nothing

    def enter(self, entry: Plain) -> None:
        """Write an entry to the journal at the end of this turn."""
        if not self._waiting and not self._ended:
            self._loop.call_soon(self.flush)
        self.entries.append(entry)

    def commit(self) -> None:
        """Write the entries now, for a request that leaves by another way than this."""
        entries = self.entries
        if entries:
            self.entries = []
            self.journal(entries)
            if self.durable is not None:
                self.durable.now()

    def write(self, transport: asyncio.Transport, data: bytes | memoryview) -> None:
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
        """Hand everything over now, or once the journal is on the disk where that is asked for."""
        entries = self.entries
        if entries:
            self.entries = []
            self.journal(entries)
        waiting, self._waiting = self._waiting, []
        ended = self._ended
        if ended:
            self._ended = []
        if self.durable is None:
            self._hand_over(waiting, ended)
        else:
            self.durable.after(partial(self._hand_over, waiting, ended), wrote=bool(entries))

    def _hand_over(self, waiting: list[tuple[asyncio.Transport, bytes | memoryview]], ended: list[Record]) -> None:
        for transport, data in waiting:
            if transport.is_closing():
                continue
            if data:
                transport.write(data)
            else:
                transport.close()
        if ended:
            self._book(ended)
